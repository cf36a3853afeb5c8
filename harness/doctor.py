"""What is there on this machine, one line each, and what to do about what is missing."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

from harness import authentication, plugins, provenance
from harness.data import ffcv_compat, prepare
from harness.data.source import Source, cache, find
from harness.experiment_file import ConfigError


@dataclass(frozen=True)
class Check:
    """One line of the report. `missing` is needed, `absent` only useful."""

    name: str
    state: Literal["ok", "absent", "missing"]
    found: str
    advice: str = ""


def checks() -> list[Check]:
    """Every check, in the order in which they matter."""
    return [_torch(), _ffcv(), *_packages(), *_datasets(), _disk(), _threads(), _cluster()]


def shown(found: list[Check]) -> Table:
    """The checks as a terminal table."""
    marks = {"ok": "[green]ok[/]", "absent": "[yellow]absent[/]", "missing": "[red]missing[/]"}
    table = Table(show_header=False, box=None, pad_edge=False)
    for check in found:
        advice = f" → {check.advice}" if check.advice else ""
        table.add_row(marks[check.state], check.name, f"{check.found}{advice}")
    return table


def _torch() -> Check:
    version = provenance.installed("torch")
    if version is None:
        return Check("torch", "missing", "not installed", "make setup")
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    devices = ", ".join(gpus) if gpus else "CPU only"
    return Check("torch", "ok", f"{version} on {devices} ({torch.get_num_threads()} threads)")


def _ffcv() -> Check:
    advice = "data too large for memory is read by the slower torch loader; scripts/install_ffcv.sh compiles FFCV"
    version = ffcv_compat.available()
    if version is None:
        return Check("ffcv", "absent", "not installed", advice)
    try:
        ffcv_compat.load()
    except (ImportError, OSError) as error:
        return Check("ffcv", "absent", f"{version} does not import: {error}", advice)
    return Check("ffcv", "ok", version)


def _packages() -> list[Check]:
    needed = {"ray": "missing", "mlflow": "missing", "torchvision": "missing", "tonic": "absent", "aedat": "absent"}
    advice = {
        "tonic": "only event data needs it: pip install 'snn-harness[events]' -c constraints.txt",
        "aedat": "only CIFAR10-DVS needs it, beside tonic: pip install aedat",
    }
    found = []
    for name, state in needed.items():
        version = provenance.installed(name)
        if version:
            found.append(Check(name, "ok", version))
        else:
            found.append(Check(name, state, "not installed", advice.get(name, "make setup")))  # type: ignore[arg-type]
    return found


def _datasets() -> list[Check]:
    raw = os.environ.get("HARNESS_DATA")
    found = [
        Check("HARNESS_DATA", "ok" if raw else "absent", raw or "not set", "" if raw else "datasets are downloaded")
    ]
    for name in plugins.names("datasets"):
        try:
            source = find(name)
        except ValueError:
            found.append(Check(f"dataset {name}", "ok", "reads what the experiment names"))
            continue
        where = _located(source)
        if where:
            found.append(Check(f"dataset {name}", "ok", where))
        else:
            found.append(Check(f"dataset {name}", "absent", "not on this machine", f"harness data prepare {name}"))
    return found


def _located(source: Source) -> str | None:
    """Where a dataset's files are, if they are on this machine."""
    options = () if source.config is None else (source.config,)
    for root in prepare.roots():
        try:
            samples = source.module.samples(root, "train", *options)
        except FileNotFoundError:
            continue
        return f"{len(samples)} training samples" + (f" under {_home(root)}" if root.exists() else "")
    return None


def _disk() -> Check:
    kept = cache()
    existing = next(folder for folder in [kept, *kept.parents] if folder.exists())
    free = shutil.disk_usage(existing).free
    state: Literal["ok", "absent"] = "ok" if free > 5e9 else "absent"
    advice = "" if state == "ok" else "prepared data may not fit; set HARNESS_CACHE to a larger disk"
    return Check("disk", state, f"{free / 1e9:.0f} GB free for {_home(kept)} (HARNESS_CACHE)", advice)


def _threads() -> Check:
    machine = provenance.machine()
    limits = {key: os.environ[key] for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if key in os.environ}
    shown = ", ".join(f"{key}={value}" for key, value in limits.items()) or "no limit set"
    return Check("threads", "ok", f"{machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB memory; {shown}")


def _cluster() -> Check:
    """The cluster that the environment names, asked whether it answers and takes our token."""
    address = os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        return Check("cluster", "ok", "none is named (RAY_ADDRESS), so a sweep starts a Ray of its own, with a token")
    try:
        with_token = authentication.wanted()
        authentication.agree(address)
    except ConfigError as error:
        return Check("cluster", "missing", str(error))
    return Check("cluster", "ok", f"{address} answers" + (", and takes the token" if with_token else " to anybody"))


def _home(path: Path) -> str:
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
