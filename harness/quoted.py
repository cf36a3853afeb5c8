"""Published figures beside measured ones: where each is from, how it was got, and what differs from here. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness import published as papers
from harness.cell import Cell
from harness.published import Published
from harness.sheet import EPOCH_OF, Sheet

AUGMENTATIONS = {
    "crop_padding": "crop", "random_resized_crop": "random resized crop", "flip": "flip", "roll": "roll",
    "cutout": "Cutout", "event_drop": "event drop",
}  # fmt: skip
"""Key of a dataset's `augment` -> what it is called in a sentence, and in `Published.augmentation`."""


def sources(sheet: Sheet) -> dict[Published, str]:
    """Published row -> a sentence for the notes."""
    return {
        row: "; ".join(
            [
                f"published in {row.source} ({row.evidence})",
                EPOCH_OF[row.selection],
                *differences(row, sheet.cells),
                *([row.note] if row.note else []),
            ]
        )
        for row in sheet.published
    }


def numbers(texts: Mapping[Published, str]) -> dict[str, int]:
    """Text of a source -> its number in the notes."""
    return {text: number for number, text in enumerate(dict.fromkeys(texts.values()), start=1)}


def entries(row: Published, number: int) -> dict[str, str]:
    """Column -> text of a published row."""
    unverified = "" if row.is_verified else ", unverified"
    return {
        "Dataset": row.dataset,
        "Method": f"{row.name}, published{unverified} [{number}]",
        "Network": row.network,
        "T": str(row.time_steps or "–"),
        "Accuracy %": f"{row.accuracy:.2f}" if row.std is None else f"{row.accuracy:.2f} ± {row.std:.2f}",
    }


def differences(row: Published, cells: Sequence[Cell]) -> list[str]:
    """In what a published figure was got otherwise than those measured here; of the method where it was measured."""
    here = [cell for cell in cells if papers.is_same_data(row.dataset, cell.dataset)]
    alike = [cell for cell in here if papers.is_same_method(row, cell.method)]
    data = _data(row, here)
    if not alike:
        return ["method not measured here", *data]
    differs = {
        "network": not any(papers.is_same_name(row.network, cell.network) for cell in alike),
        "T": row.time_steps not in {cell.time_steps for cell in alike},
        "choice of the epoch": row.selection not in {cell.selection for cell in alike} | {"unknown"},
    }
    named = [name for name, is_different in differs.items() if is_different]
    return [*([f"other {', '.join(named)} than here"] if named else []), *data, *_augmentation(row, alike)]


def augmentation(configuration: Mapping[str, Any]) -> str:
    """What is done to training data, from a cell's configuration: 'crop, flip', or 'none'."""
    found = [text for key, text in AUGMENTATIONS.items() if configuration.get(f"dataset.augment.{key}")]
    return ", ".join(found) or "none"


def _data(row: Published, here: Sequence[Cell]) -> list[str]:
    others = {cell.dataset for cell in here if not papers.is_same_name(row.dataset, cell.dataset)}
    return [f"other data: {row.dataset} there, {' and '.join(sorted(others))} here"] if others else []


def _augmentation(row: Published, alike: Sequence[Cell]) -> list[str]:
    here = sorted({augmentation(cell.configuration) for cell in alike})
    if row.augmentation is None:
        return ["augmentation not known"]
    return [] if row.augmentation in here else [f"augmentation: {row.augmentation} there, {' or '.join(here)} here"]
