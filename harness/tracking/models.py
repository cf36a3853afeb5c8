"""The best network of a sweep as a registered model, which `mlflow.pyfunc.load_model` loads wherever we are installed.

A model is named '<experiment>-<dataset>'; its version under the alias `best` is that of the trial with the highest
validation accuracy. It holds the selected weights and a description, no code: `harness.tracking.network` reads it.
"""

import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import harness
from harness import cells, provenance, select, storage
from harness.cell import Cell, grouped
from harness.record import Record

ALIAS = "best"
LOADER = "harness.tracking.network"
FORMAT = 1
"""Of what is registered; a network in another one is registered again."""
DESCRIPTION, WEIGHTS = "network.json", "weights.pt"
"""What a model's data folder holds."""


class Choice(NamedTuple):
    """The trial whose network is the best for one dataset."""

    dataset: str
    """Printed name."""
    record: Record


def best(records: Sequence[Record]) -> Iterator[Choice | str]:
    """For each dataset the best trial, or the sentence why there is none.

    Decides by validation accuracy: first between configurations, by the mean over seeds, as `select.best` does; then
    between the seeds of the best one. Methods without time steps count only where there are no others.
    """
    by_id = {record.id: record for record in cells.unique(records)}
    for dataset, group in grouped(select.best(cells.of(records)), lambda cell: cell.dataset).items():
        spiking = [cell for cell in group if cell.spiking] or group
        ranked = [cell for cell in spiking if cell.validation]
        if not ranked:
            if len(spiking) > 1:
                yield f"no network is registered for {dataset}: there is no validation accuracy to choose by"
                continue
            ranked = spiking
        cell = min(ranked, key=_rank)
        done = [by_id[trial] for trial in cell.ids if by_id[trial].outcome == "done"]
        yield Choice(dataset, max(done, key=lambda record: record.validation_accuracy or 0.0))


def _rank(cell: Cell) -> tuple:
    return cell.has_diverged, -(cell.validation.mean if cell.validation else 0.0), cell.key


def register(client: Any, experiment: str, run: str, choice: Choice, folders: Sequence[Path]) -> str | None:
    """Register the chosen network, logged under its trial's run, and say so in a line; None when it was before.

    `folders` are where the experiment's weights may be.
    """
    record = choice.record
    weights = next((file for folder in folders if storage.is_file(file := _weights(folder, record))), None)
    if weights is None:
        return f"no network is registered for {choice.dataset}: the weights of the best, {record.id}, are not here"
    try:
        described = describe(record)
    except (ValueError, OSError) as error:
        return f"no network is registered for {choice.dataset}: {error}"
    name, content = model_name(choice), weights.read_bytes()
    digest = hashlib.sha256(f"{FORMAT} {json.dumps(described)} ".encode() + content).hexdigest()
    version = _registered(client, name, digest)
    known = version is not None
    if version is None:
        tags = {"harness.network": digest, "harness.trial": record.id, "commit": record.commit or "unknown"}
        version = _registered_now(client, experiment, run, name, tags, described, content)
    if str(client.get_registered_model(name).aliases.get(ALIAS)) != version:
        client.set_registered_model_alias(name, ALIAS, version)
    return None if known else f"registered models:/{name}/{version}, {_shown(record)}"


def model_name(choice: Choice) -> str:
    """What the best network is registered as: 'digits' on 'CIFAR-10' -> 'digits-cifar-10'."""
    dataset = re.sub(r"\W+", "-", choice.dataset.lower()).strip("-")
    return re.sub(r"[/:]", "-", f"{choice.record.experiment}-{dataset}")


def describe(record: Record) -> dict[str, Any]:
    """All that it takes to build the network and to read its input, as JSON; the weights stand beside it.

    `input` is the shape of one sample: uint8 pixels (C, H, W), or counts of events (T, P, h, w).
    Raises ValueError or FileNotFoundError when the dataset is not known here.
    """
    from harness.data import frames, source
    from harness.plan import Trial

    trial = Trial.model_validate(record.trial)
    stored = source.of(trial.dataset).info
    info, size = source.seen(stored, trial.dataset), trial.dataset.frames.size
    sample = frames.cut(stored, trial.dataset.frames, trial.time_steps).shape if info.temporal else info.shape
    normal = trial.dataset.normalize or info
    return {
        "id": record.id, "trial": record.trial, "spiking": record.spiking is not False,
        "shape": list(info.shape), "input": list(sample), "classes": info.classes, "temporal": info.temporal,
        "mean": list(normal.mean), "std": list(normal.std),
        "size": size if info.temporal else None, "names": list(info.names),
    }  # fmt: skip


def save(folder: Path, described: dict[str, Any], weights: bytes, model: Any = None) -> None:
    """Write the model into `folder`, which is not there yet; `model` is what MLflow already knows about it."""
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory(prefix="harness-") as place:
        data = Path(place) / "network"
        data.mkdir()
        (data / DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n")
        (data / WEIGHTS).write_bytes(weights)
        # Requirements are named, or MLflow would load the model in another process and ask a package index.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
            mlflow.pyfunc.save_model(
                str(folder), loader_module=LOADER, data_path=str(data), signature=_signature(described),
                pip_requirements=_requirements(), mlflow_model=model,
            )  # fmt: skip


def _registered(client: Any, name: str, digest: str) -> str | None:
    """The version with this content, if there is one."""
    versions = client.search_model_versions(f"name = '{name}'")
    return next((str(each.version) for each in versions if each.tags.get("harness.network") == digest), None)


def _registered_now(
    client: Any, experiment: str, run: str, name: str, tags: dict[str, str], described: dict[str, Any], weights: bytes
) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    logged = client.create_logged_model(experiment, name=name, source_run_id=run, tags=tags)
    with tempfile.TemporaryDirectory(prefix="harness-") as place:
        folder = Path(place) / "model"
        about = Model(
            artifact_path=logged.artifact_location, model_uuid=logged.model_id, model_id=logged.model_id, run_id=run
        )
        save(folder, described, weights, about)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(logged.model_id, step=0)])
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description="The best network of a sweep, by validation accuracy.")
    # 'models:/<id>' would be looked up at the URI that the whole process has, which is not ours to set.
    source = logged.artifact_location
    version = client.create_model_version(name, source, run_id=run, tags=tags, model_id=logged.model_id)
    return str(version.version)


def _signature(described: dict[str, Any]) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    time_steps = described["trial"]["time_steps"]
    return ModelSignature(
        Schema([TensorSpec(np.dtype("uint8"), (-1, *described["input"]))]),
        Schema([TensorSpec(np.dtype("float32"), (-1, described["classes"]))]),
        ParamSchema([ParamSpec("time_steps", DataType.long, time_steps)]),
    )


def _requirements() -> list[str]:
    """Without local versions such as '+cpu', which no index has."""
    packages = {name: provenance.installed(name) for name in ("torch", "numpy", "mlflow")}
    found = [f"{name}=={version.split('+')[0]}" for name, version in packages.items() if version]
    return [f"snn-harness=={harness.__version__}", *found]


def _weights(folder: Path, record: Record) -> Path:
    return folder / "checkpoints" / record.id / (record.weights or WEIGHTS)


def _shown(record: Record) -> str:
    trial, reached = record.trial, record.validation_accuracy
    accuracy = f", {reached:.2f} % on validation" if reached is not None else ""
    return f"the network of {trial['label']} T={trial['time_steps']} seed {trial['seed']} ({record.id}){accuracy}"
