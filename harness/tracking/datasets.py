"""The data of a trial as MLflow's dataset inputs: one each for its train, validation and test samples."""

import hashlib
import json
from typing import Any

from harness import plugins
from harness.record import Record
from harness.tracking.server import public

DIGEST_LENGTH = 36
"""Characters that MLflow takes; our fingerprints are longer, and stand whole in the profile."""


def inputs(record: Record) -> list[Any]:
    """`mlflow.entities.DatasetInput`s; none where the record does not say which data they were.

    Named '<dataset>/<part>', because MLflow keeps one profile for a name and digest. The digest begins with the
    fingerprint of what is stored; that of a part that was cut also depends on how.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    fingerprint = record.data.get("fingerprint")
    sizes = {part: size for part, size in record.data.get("sizes", {}).items() if size}
    block = record.trial.get("dataset", {})
    if not fingerprint or not sizes:
        return []
    origin = json.dumps({"dataset": block, "files": _files(block.get("name", "")), "fingerprint": fingerprint})
    return [
        DatasetInput(
            Dataset(
                name=f"{block.get('name', 'unknown')}/{part}",
                digest=_digest(fingerprint, block, part),
                source_type="snn-harness",
                source=public(origin),
                profile=json.dumps({"num_rows": size, "title": record.data.get("title"), "fingerprint": fingerprint}),
            ),
            [InputTag("mlflow.data.context", part)],
        )
        for part, size in sizes.items()
    ]


def _digest(fingerprint: str, block: dict[str, Any], part: str) -> str:
    content = fingerprint.split(":")[-1]
    if part == "test":
        return content[:DIGEST_LENGTH]
    cut = json.dumps([block.get("validation"), block.get("split_seed")])
    suffix = "-" + hashlib.sha256(cut.encode()).hexdigest()[:8]
    return content[: DIGEST_LENGTH - len(suffix)] + suffix


def _files(dataset: str) -> str | None:
    """Where the official files are, if this installation knows the dataset."""
    if dataset not in plugins.names("datasets"):
        return None
    info = getattr(plugins.load("datasets", dataset), "INFO", None)
    return info.source if info else None
