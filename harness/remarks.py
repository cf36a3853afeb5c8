"""What stands above and below a table: what its figures mean, how rows were chosen, what failed. Pure."""

from collections.abc import Collection

from harness.cell import Cell
from harness.columns import early_exit
from harness.numerals import setting
from harness.sheet import Sheet

LATENCIES = {"latency", "p95", "p99", "samples"}
"""Columns about calls with one sample."""
WEIGHTS = {
    "last": "weights after the last epoch",
    "best_validation": "weights of the epoch with the best validation accuracy",
    "best_test": "weights of the epoch with the best TEST accuracy, which is optimistic",
}


def caption(sheet: Sheet) -> str:
    """What the accuracies are: their unit, over how many seeds, of which weights."""
    counts = {cell.accuracy.n for cell in sheet.cells if cell.accuracy}
    if counts <= {1}:
        spread = "of a single seed (n=1)"
    elif len(counts) == 1:
        spread = f"mean ± sample standard deviation over n = {counts.pop()} seeds"
    else:
        spread = "mean ± sample standard deviation over seeds (their number)"
    rules = " or ".join(_rule(rule) for rule in sorted({cell.selection for cell in sheet.cells}))
    return f"Top-1 test accuracy in percent, {spread}; {rules}."


def _rule(selection: str) -> str:
    return f"{selection}: {WEIGHTS[selection]}"


def notes(sheet: Sheet, measures: Collection[str]) -> list[str]:
    """What a reader of the table with these columns (`harness.columns`) has to know, and why trials failed."""
    notes = []
    if sheet.has_choice:
        notes.append(
            "★ best mean validation accuracy of its method, network and T (with a diverged seed only if all have one)"
        )
    if sheet.fewest_steps or sheet.fastest:
        notes.append(
            "◆ Pareto-optimal among all chosen spiking networks: none is as accurate with fewer time steps (mark at T) "
            "or with lower latency (mark at the latency)"
        )
    unchosen = sorted({cell.label for cell in sheet.cells if cell.accuracy and not cell.validation})
    if sheet.has_choice and unchosen:
        notes.append(f"no validation accuracy, so not chosen by it: {', '.join(unchosen)}")
    notes += [
        *_start_notes(sheet),
        *(_latency_notes(sheet) if LATENCIES & set(measures) else []),
        *_energy_notes(sheet, measures),
        *_early_notes(sheet, measures),
    ]
    if sheet.has_choice and "trials" in measures:
        notes.append(
            "trials: of all settings and seeds among which the row was chosen, failed ones too (their wall-clock hours)"
        )
    if sheet.elsewhere:
        notes.append(f"{sheet.elsewhere} published figures of this dataset fit no table here and are left out")
    for cell in sheet.cells:
        notes += [f"{_name(cell, sheet)}, seed {f.seed} {f.outcome}: {f.reason}" for f in cell.failures]
    commits = sorted({commit for cell in sheet.cells for commit in cell.commits})
    if commits:
        notes.append(
            f"commit {', '.join(commits)}{' (+: with uncommitted changes)' if '+' in ''.join(commits) else ''}"
        )
    return notes


def _start_notes(sheet: Sheet) -> list[str]:
    """Which methods did not begin with fresh weights: what their start cost stands in the row of the other method."""
    starts = {(cell.label, cell.configuration["start"]) for cell in sheet.cells if "start" in cell.configuration}
    return [
        f"{label} starts from the weights of {origin}, whose training comes on top" for label, origin in sorted(starts)
    ]


def _latency_notes(sheet: Sheet) -> list[str]:
    texts = sorted({f"batch of {c.latency.batch_size}, {' and '.join(c.processors)}" for c in sheet.cells if c.latency})
    if len(texts) > 1:
        return [f"latency: median, measured under different conditions, not comparable: {'; '.join(texts)}"]
    return [f"latency: median over calls; {text}" for text in texts]


def _energy_notes(sheet: Sheet, measures: Collection[str]) -> list[str]:
    found = [cell.energy for cell in sheet.cells if cell.energy]
    notes = []
    if {"energy", "energy_memory", "energy_ann", "energy_ratio"} & set(measures):
        notes += [
            f"energy: estimated, compute only, {mac:g} pJ a multiply-accumulate, {ac:g} pJ an accumulate ({source})"
            for mac, ac, source in sorted({(e.mac_picojoules, e.ac_picojoules, e.source) for e in found})
        ]
    if {"energy_memory", "energy_ratio"} & set(measures):
        notes += [f"memory: {source}" for source in sorted({e.memory_source for e in found if e.memory_source})]
    if {"energy_ann", "energy_ratio"} & set(measures):
        compared = "; the ratio is with memory where both are known" if "energy_ratio" in measures else ""
        notes.append(f"ANN: the same layers, one dense pass with real numbers{compared}")
    return notes


def _early_notes(sheet: Sheet, measures: Collection[str]) -> list[str]:
    if "early_exit" not in measures:
        return []
    found = sorted({entry.confidence for cell in sheet.cells if (entry := early_exit(cell))})
    texts = " or ".join(f"{confidence:g}" for confidence in found)
    return [f"early exit: as soon as the likeliest class has a probability of {texts}"] if found else []


def _name(cell: Cell, sheet: Sheet) -> str:
    values = cell.configuration
    settings = [f"{key.removeprefix('settings.')} = {setting(values[key])}" for key in sheet.varying if key in values]
    return ", ".join([cell.label, cell.network, f"T = {cell.time_steps}", *settings])
