"""How many trials fit on a cluster's nodes at once, and the arithmetic when not even one does. Pure: knows no Ray."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.config import Scale

DRIVER_BYTES = 1.3e9
"""Memory on the head that the driver of a trial of several workers takes: its Tune actor and Ray Train's helpers."""

SPREADS = {
    "pack": "on as few nodes as possible", "spread": "on as many nodes as possible", "strict_pack": "all on one node",
    "strict_spread": "no two on one node",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """What one node has for trials."""

    cpus: float
    gpus: float = 0.0
    memory_bytes: float = math.inf
    is_head: bool = False
    kind: str = ""
    """Its type in the cluster's file, where it has one."""

    def has(self) -> dict[str, float]:
        """Its resources under the names that `Need.each` has."""
        return {"CPUs": self.cpus, "GPUs": self.gpus, "GB of memory": self.memory_bytes / 1e9}


@dataclass(frozen=True)
class Need:
    """What one trial takes: `workers` times `each`, placed as `placement` says, and a driver on the head.

    Threads that load data are among a worker's CPUs. Controllers take no CPU; a trial of one worker has none.
    """

    workers: int
    cpus: float
    gpus: float = 0.0
    memory_gb: float = 0.0
    placement: str = "pack"

    @property
    def each(self) -> dict[str, float]:
        """What one worker takes, without what it does not ask for."""
        asked = {"CPUs": self.cpus, "GPUs": self.gpus, "GB of memory": self.memory_gb}
        return {name: amount for name, amount in asked.items() if amount}

    def __str__(self) -> str:
        each = ", ".join(f"{amount:g} {name}" for name, amount in self.each.items())
        if self.workers == 1:
            return each
        total = " and ".join(f"{self.workers * amount:g} {name}" for name, amount in self.each.items())
        return f"{self.workers} workers x ({each}) = {total}, {SPREADS[self.placement]} ({self.placement})"


def need(scale: Scale, gpus: float) -> Need:
    """What a trial of `scale` takes, with `gpus` for each worker."""
    return Need(scale.workers, scale.cpus_per_worker, gpus, scale.memory_gb_per_worker or 0.0, scale.placement)


def gpus_per_worker(scale: Scale, nodes: Iterable[Node]) -> float:
    """GPUs of one worker, with `auto` decided: one where any node has one."""
    return float(any(node.gpus for node in nodes)) if scale.gpus_per_worker == "auto" else scale.gpus_per_worker


def slots(need: Need, node: Node) -> int:
    """How many workers one node holds."""
    return min(by_resource(need, node).values())


def by_resource(need: Need, node: Node) -> dict[str, int]:
    """The same for each resource as if it were the only one."""
    has = node.has()
    found = {name: _quotient(has[name], amount) for name, amount in need.each.items()}
    if 0 < need.gpus < 1:
        found["GPUs"] = int(node.gpus) * _quotient(1, need.gpus)  # a worker's share comes from a single GPU
    return found


def fits(need: Need, nodes: Sequence[Node]) -> int:
    """How many trials run at once on these nodes."""
    held = [slots(need, node) for node in nodes]
    if need.workers == 1:
        return sum(held)
    return min(_groups(need, held), drivers(nodes))


def drivers(nodes: Iterable[Node]) -> int:
    """How many drivers of trials of several workers the head's memory holds; without a head, no limit is known."""
    heads = [node.memory_bytes for node in nodes if node.is_head]
    return min(int(min(memory // DRIVER_BYTES, 10**9)) for memory in heads) if heads else 10**9


def refusal(need: Need, nodes: Sequence[Node]) -> str:
    """Why not even one trial fits: what it needs, what each node holds and what stops there, what would be right."""
    lines = []
    for text, alike in _alike(nodes).items():
        found = by_resource(need, alike[0])
        short = " and ".join(name for name, number in found.items() if number == min(found.values()))
        lines.append(
            f"{_counted(text, alike)} holding {min(found.values())} workers{_each(alike)}, for want of {short}"
        )
    held = "; ".join(lines) or "no node"
    return f"a trial needs {need}; the cluster has {held}; {_right(need, nodes)}"


def summary(nodes: Sequence[Node]) -> str:
    """All nodes in one phrase, those alike together."""
    return " and ".join(_counted(text, alike) for text, alike in _alike(nodes).items()) or "no node"


def _alike(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    """Nodes of which the same can be said, under what is said."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        memory = f", {node.memory_bytes / 1e9:.0f} GB of memory" if math.isfinite(node.memory_bytes) else ""
        kind = f" of type {node.kind}" if node.kind and not node.is_head else ""
        text = f"{'head' if node.is_head else 'node'}{kind} ({node.cpus:g} CPUs, {node.gpus:g} GPUs{memory})"
        found.setdefault(text, []).append(node)
    return found


def _counted(text: str, alike: Sequence[Node]) -> str:
    return f"{len(alike)} x {text}"


def _each(alike: Sequence[Node]) -> str:
    return " each" if len(alike) > 1 else ""


def _groups(need: Need, held: Sequence[int]) -> int:
    """Groups of `need.workers` that can be made of the workers that the nodes hold."""
    match need.placement:
        case "strict_pack":
            return sum(number // need.workers for number in held)
        case "strict_spread":
            # So many groups can be made if each node gives every group at most one worker.
            groups = sum(held) // need.workers
            while sum(min(number, groups) for number in held) < groups * need.workers:
                groups -= 1
            return groups
        case _:
            return sum(held) // need.workers


def _right(need: Need, nodes: Sequence[Node]) -> str:
    """Which setting would let one trial fit."""
    held = [slots(need, node) for node in nodes]
    if any(held):
        if _groups(need, held) and not drivers(nodes):
            return (
                f"the driver of a trial of several workers takes {DRIVER_BYTES / 1e9:g} GB of the head's memory; "
                f"right would be a larger head, or scale.workers: 1"
            )
        alone = {"strict_pack": max(held), "strict_spread": sum(number > 0 for number in held)}
        most = alone.get(need.placement, sum(held))
        other = " or scale.placement: pack" if need.placement in alone and sum(held) >= need.workers else ""
        return f"right would be scale.workers: {most} at most{other}, or more nodes"
    keys: Mapping[str, tuple[str, float]] = {
        "CPUs": ("cpus_per_worker", need.cpus),
        "GPUs": ("gpus_per_worker", need.gpus),
        "GB of memory": ("memory_gb_per_worker", need.memory_gb),
    }
    most_of = {name: max((node.has()[name] for node in nodes), default=0.0) for name in need.each}
    over = [f"scale.{keys[name][0]}: {most:g} at most" for name, most in most_of.items() if most < keys[name][1]]
    return "right would be " + (" and ".join(over) if over else "less of one of them: no single node has all of them")


def _quotient(has: float, amount: float) -> int:
    return int(min((has + 1e-9) // amount, 10**9))
