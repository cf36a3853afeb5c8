"""How many trials fit on nodes of several shapes, by arithmetic alone."""

import itertools

import pytest

from harness import places
from harness.config import Scale
from harness.places import Need, Node, fits, refusal

BIG, SMALL = Node(8, 2), Node(4)


def placed(need: Need, held: tuple[int, ...]) -> int:
    """The same number found by trying: greedily, a trial at a time, from the fullest nodes, as strict_spread allows."""
    free, trials = list(held), 0
    while True:
        order = sorted(range(len(free)), key=lambda place: -free[place])[: need.workers]
        if len(order) < need.workers or any(free[place] == 0 for place in order):
            return trials
        for place in order:
            free[place] -= 1
        trials += 1


def test_a_place_is_on_one_node_and_not_in_the_sum_of_them():
    assert fits(Need(1, cpus=3), [SMALL, SMALL]) == 2  # and not 8 // 3
    assert fits(Need(1, cpus=6), [SMALL, SMALL]) == 0
    assert fits(Need(1, cpus=6), [SMALL, BIG]) == 1


def test_every_resource_limits_and_the_scarcest_decides():
    assert fits(Need(1, cpus=1, gpus=1), [BIG, SMALL]) == 2
    assert fits(Need(1, cpus=1, gpus=0.25), [BIG]) == 8
    assert fits(Need(1, cpus=1, gpus=0.4), [BIG]) == 4  # two on each GPU, never one across two
    assert fits(Need(1, cpus=1, memory_gb=3), [Node(8, memory_bytes=10e9)]) == 3


@pytest.mark.parametrize(
    ("placement", "trials"), [("pack", 4), ("spread", 4), ("strict_pack", 3), ("strict_spread", 3)]
)
def test_placement_decides_how_many_groups_there_are(placement, trials):
    nodes = [Node(5), Node(2), Node(1)]
    assert fits(Need(2, cpus=1, placement=placement), nodes) == trials


def test_strict_spread_agrees_with_trying_every_small_cluster():
    for held in itertools.product(range(5), repeat=3):
        for workers in (2, 3):
            need = Need(workers, cpus=1, placement="strict_spread")
            assert fits(need, [Node(number) for number in held]) == placed(need, held), held


def test_drivers_of_trials_of_several_workers_are_limited_by_the_heads_memory():
    nodes = [Node(0, memory_bytes=4e9, is_head=True), Node(64)]
    assert fits(Need(2, cpus=1), nodes) == 3
    assert fits(Need(1, cpus=1), nodes) == 64  # these have no driver
    told = refusal(Need(2, cpus=1), [Node(0, memory_bytes=1e9, is_head=True), Node(64)])
    assert "1.3 GB of the head's memory" in told


def test_auto_is_a_gpu_where_any_node_has_one():
    assert places.gpus_per_worker(Scale(), [SMALL, BIG]) == 1
    assert places.gpus_per_worker(Scale(), [SMALL]) == 0
    assert places.gpus_per_worker(Scale(gpus_per_worker=0.5), [SMALL]) == 0.5


@pytest.mark.parametrize(
    ("need", "told"),
    [
        (
            Need(1, cpus=16),
            "a trial needs 16 CPUs; the cluster has 2 x node (4 CPUs, 0 GPUs) holding 0 workers each, for want of CPUs"
            "; 1 x node (8 CPUs, 2 GPUs) holding 0 workers, for want of CPUs; right would be scale.cpus_per_worker: 8",
        ),
        (Need(4, cpus=4, gpus=1), "4 workers x (4 CPUs, 1 GPUs) = 16 CPUs and 4 GPUs, on as few nodes"),
        (Need(4, cpus=4, gpus=1), "right would be scale.workers: 2 at most, or more nodes"),
        (Need(1, cpus=1, gpus=4), "right would be scale.gpus_per_worker: 2 at most"),
        (Need(4, cpus=1, placement="strict_spread"), "scale.workers: 3 at most or scale.placement: pack"),
        (Need(9, cpus=1, placement="strict_pack"), "scale.workers: 8 at most or scale.placement: pack"),
        (Need(1, cpus=1, memory_gb=300), "scale.memory_gb_per_worker: "),
        (Need(1, cpus=8, memory_gb=8), "no single node has all of them"),
    ],
)  # fmt: skip
def test_refusal_shows_what_each_node_holds_and_what_would_be_right(need, told):
    nodes = [SMALL, SMALL, BIG]
    if need.memory_gb:
        nodes = [Node(8, memory_bytes=4e9), Node(4, memory_bytes=16e9)]
    assert not fits(need, nodes)
    text = refusal(need, nodes)
    assert told in text
    assert "\n" not in text
