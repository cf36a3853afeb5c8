"""Reads the file of a Ray cluster that starts and stops nodes by itself: which nodes it has, at least and at most."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yaml import YAMLError

from harness.experiment_file import ConfigError, parse
from harness.places import Need, Node, slots


@dataclass(frozen=True)
class NodeType:
    """One kind of node: what each has, and how many workers (nodes beside the head) there are of it."""

    node: Node
    fewest: int
    most: int


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster may become."""

    types: tuple[NodeType, ...]
    max_workers: int
    """Nodes beside the head, of all types together."""
    prices: Mapping[str, float]
    """Type of node -> US dollars an hour, as far as the file's `metadata: {usd_per_hour: …}` says."""

    def nodes(self, need: Need) -> list[Node]:
        """Its nodes when it has grown as far as it may for such trials: types that hold most of them come first."""
        left, found = self.max_workers, [each.node for each in self.types if each.node.is_head]
        for each in sorted(self.types, key=lambda each: slots(need, each.node), reverse=True):
            workers = min(each.most, left)
            left -= workers
            found += [replace(each.node, is_head=False)] * workers
        return found


def read(file: Path) -> ClusterFile:
    """Read a cluster file in the format of Ray's cluster launcher.

    Raises ConfigError in one line for a file that cannot be read or that leaves its nodes' resources open.
    """
    try:
        content = parse(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    found = content.get("available_node_types") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{file}: no 'available_node_types'; expected a cluster file of Ray's launcher (`ray up`)")
    prices = (content.get("metadata") or {}).get("usd_per_hour") or {}
    if not isinstance(prices, dict) or not all(isinstance(price, int | float) for price in prices.values()):
        raise ConfigError(f"{file}: metadata.usd_per_hour: expected node types with a number each")
    limit = content.get("max_workers", 2)  # Ray's own default
    head = content.get("head_node_type", next(iter(found)) if len(found) == 1 else None)
    types = tuple(_type(name, entry, name == head, limit, file) for name, entry in found.items())
    if head not in found:
        raise ConfigError(f"{file}: head_node_type: found {head!r}; expected one of {', '.join(found)}")
    return ClusterFile(types, limit, prices)


def _type(name: str, entry: Any, is_head: bool, limit: int, file: Path) -> NodeType:
    where = f"{file}: available_node_types.{name}"
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: expected keys such as 'resources' and 'max_workers'")
    resources = entry.get("resources") or {}
    if "CPU" not in resources:
        raise ConfigError(f"{where}.resources: how many CPUs and GPUs? such as {{CPU: 8, GPU: 1}}")
    memory = resources.get("memory")
    node = Node(
        cpus=float(resources["CPU"]), gpus=float(resources.get("GPU", 0)), is_head=is_head, kind=name,
        **({"memory_bytes": float(memory)} if memory else {}),
    )  # fmt: skip
    workers = (entry.get("min_workers", 0), entry.get("max_workers", 0 if is_head else limit))
    if not all(isinstance(number, int) and number >= 0 for number in workers):
        raise ConfigError(f"{where}: min_workers and max_workers are whole numbers")
    return NodeType(node, *workers)
