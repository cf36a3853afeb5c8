"""Names by which cells are filtered and put into tables of their own: 'network', 'time_steps', 'v_threshold'. Pure."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from harness import published as papers
from harness.cell import Cell
from harness.published import Published

OWN: dict[str, Callable[[Cell], Any]] = {
    "dataset": lambda cell: cell.dataset,
    "network": lambda cell: cell.network,
    "method": lambda cell: cell.label,
    "time_steps": lambda cell: cell.time_steps,
    "selection": lambda cell: cell.selection,
}
"""What every cell has; anything else is a key of its configuration, in full or its end: 'settings.tau' or 'tau'."""

Condition = tuple[str, tuple[str, ...]]
"""A key as it is in the cells, and the values that are let through, as texts."""


def resolved(name: str, cells: Sequence[Cell]) -> str:
    """The key that a name stands for; raises ValueError for one that no cell has, or that could be several."""
    name = {"T": "time_steps", "label": "method"}.get(name, name)
    if name in OWN:
        return name
    keys = {key for cell in cells for key in cell.configuration}
    found = {name} & keys or {key for key in keys if key.endswith(f".{name}")}
    if len(found) == 1:
        return found.pop()
    if found:
        raise ValueError(f"'{name}' could be {' or '.join(sorted(found))}")
    near = difflib.get_close_matches(name, [*OWN, *keys, *(key.split(".")[-1] for key in keys)], 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"no key '{name}'{hint} (there are: {', '.join(OWN)}; settings such as {_examples(keys)})")


def of(cell: Cell, key: str) -> Any:
    """A cell's value of a resolved key; None where its configuration has none."""
    return OWN[key](cell) if key in OWN else cell.configuration.get(key)


def conditions(texts: Iterable[str], cells: Sequence[Cell]) -> list[Condition]:
    """'network=mlp,vgg11' -> the key and its values; raises ValueError for what is not such a text."""
    found = []
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name and equals and values):
            raise ValueError(f"'{text}': expected key=value, such as network=mlp or time_steps=2,4")
        found.append((resolved(name, cells), (values, *values.split(","))))
    return found


def where(cells: Sequence[Cell], asked: Iterable[Condition]) -> list[Cell]:
    """The cells that meet every condition; raises ValueError naming the first that nothing is left by."""
    left = list(cells)
    for key, values in asked:
        there = left
        left = [cell for cell in there if _is_among(cell, key, values)]
        if there and not left:
            known = sorted({str(of(cell, key)) for cell in there})
            raise ValueError(f"nothing has {key}={values[0]} (there are: {', '.join(known[:20])})")
    return left


def is_quoted(row: Published, key: str, values: Iterable[Any]) -> bool:
    """Whether a published figure is one of these; of what papers' rows do not tell, any is."""
    match key:
        case "dataset":
            return any(papers.is_same_data(row.dataset, str(value)) for value in values)
        case "network":
            return any(papers.is_same_name(row.network, str(value)) for value in values)
        case "method":
            return any(papers.is_same_method(row, str(value)) for value in values)
        case "time_steps":
            return any(str(row.time_steps) == str(value) for value in values)
        case _:
            return True


def _is_among(cell: Cell, key: str, values: Sequence[str]) -> bool:
    found = of(cell, key)
    # The network as tables print it may hold options, which nobody wants to type.
    texts = {str(found)} | ({str(found).split(" ")[0]} if key == "network" else set())
    texts |= {cell.method} if key == "method" else set()
    return bool(texts & set(values)) or (_is_number(found) and any(_number(value) == found for value in values))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _examples(keys: Iterable[str]) -> str:
    found = sorted(key for key in keys if key.startswith(("settings.", "train.")))
    return ", ".join(found[:4]) or "none"
