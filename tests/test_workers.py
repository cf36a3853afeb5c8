"""Several workers with the same global batch learn what one process learns: every method, in real processes."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import evaluation, plugins
from harness.config import Train
from harness.contract import Origin, Task
from harness.loop import Setup, Training
from tests import crew

pytestmark = pytest.mark.slow

T, CLASSES, BATCH_SIZE = 4, 3, 8
SIZES = {"train": 24, "validation": 7, "test": 3}


class Images:
    """Images, or frames that change over time, of float64; shared over workers as `data.loader` does it."""

    sizes = SIZES

    def __init__(self, temporal: bool) -> None:
        self.temporal = temporal

    def batches(
        self, part: str, batch_size: int, *, epoch: int = 0, seed: int = 0, rank: int = 0, world: int = 1,
        augmented: bool = True, start: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        generator = torch.Generator().manual_seed(list(SIZES).index(part))
        size = SIZES[part]
        y = torch.arange(size) % CLASSES
        x = torch.randn(T, size, 2, 6, 6, generator=generator, dtype=torch.float64)
        x = x + y[:, None, None, None] * torch.linspace(0, 1, 6, dtype=torch.float64)
        order = torch.arange(size)
        if part == "train":
            order = torch.randperm(size, generator=generator.manual_seed(epoch))[start * batch_size :]
        share = -(-batch_size // world)
        for some in order[rank::world].split(share):
            if len(some):
                yield (x[:, some] if self.temporal else x[0, some]), y[some]


MLP, CONVNET = ("mlp", {"hidden": [10, 8]}), ("convnet", {"stages": [[4], [6]]})
RESIDUAL = ("PreAct-ResNet-18", {"stages": [[1, 4], [1, 6]]})
FEEDBACK, DEEP = ("400 (F400)", {"widths": [12], "dropout": 0.0}), ("400 (F400)", {"widths": [10, 8], "dropout": 0.0})
BARE = ("mlp", {"hidden": [10, 8], "batch_norm": False})
EXACT = {"tolerance": 1e-12, "max_iterations": 200}

Case = tuple[str, tuple[str, dict], dict, dict]
"""Method, network with its options, settings, and what differs in the recipe; `temporal` stands there too."""

CASES: dict[str, Case] = {
    "ann": ("ann", MLP, {}, {}),
    "ann, rectified": ("ann", CONVNET, {"readout": "rectified"}, {"micro_batches": 2}),
    "bptt": ("bptt", CONVNET, {}, {"temporal": True}),
    "bptt, no norm": ("bptt", BARE, {}, {"sync_batch_norm": False, "clip_norm": 0.1}),
    "bptt, tdbn": ("bptt", RESIDUAL, {"norm": "tdbn", "v_threshold": 0.8}, {"temporal": True}),
    "bptt, per step": ("bptt", CONVNET, {"norm": "per_step", "neuron": "plif"}, {"temporal": True}),
    "bptt, still, per step": ("bptt", MLP, {"norm": "per_step"}, {}),
    "bptt, segments": ("bptt", MLP, {"norm": "per_step", "time_segments": 2}, {"temporal": True}),
    "bptt, tet": ("bptt", MLP, {"loss": "tet"}, {"optimizer": "adam", "lr": 0.01}),
    "dsr": ("dsr", CONVNET, {"v_threshold": 1.0}, {}),
    "dsr, lif": ("dsr", MLP, {"neuron": "lif", "v_threshold": 0.1}, {"temporal": True}),
    "dsr, unrolled": ("dsr", MLP, {"gradient": "unrolled", "v_threshold": 1.0}, {"temporal": True}),
    "dsr, unrolled, lif": (
        "dsr", CONVNET, {"gradient": "unrolled", "neuron": "lif", "v_threshold": 0.1, "readout_factor": "exact"},
        {"temporal": True},
    ),
    "dsr, unrolled, residual": ("dsr", RESIDUAL, {"gradient": "unrolled", "v_threshold": 0.5}, {"temporal": True}),
    "dsr, thresholds": (
        "dsr", MLP,
        {"v_threshold": 0.52, "threshold_bound": 0.5, "threshold_gradient_scale": 3.0, "threshold_weight_decay": 0.3},
        {"clip_norm": 1.0},
    ),
    "ide": ("ide", FEEDBACK, EXACT, {}),
    "ide, auto": ("ide", FEEDBACK, {}, {"temporal": True}),
    "ide, deep": ("ide", DEEP, {}, {}),
    "ide, deep, anderson": ("ide", DEEP, {"solver": "anderson", "norm_statistics": "batch"}, {"temporal": True}),
    "ottt, after batch": ("ottt", BARE, {}, {"temporal": True, "micro_batches": 2, "sync_batch_norm": False}),
    "ottt, after step": ("ottt", CONVNET, {"updates": "after_step"}, {"temporal": True}),
    "sltt": ("sltt", CONVNET, {}, {"temporal": True}),
    "sltt, some steps": ("sltt", MLP, {"backward_steps": 2}, {"temporal": True}),
}  # fmt: skip


def training(name: str, rank: int, world: int, **more: Any) -> Training:
    method, (network, options), settings, recipe = CASES[name]
    recipe = {"lr": 0.05, "epochs": 1, "batch_size": BATCH_SIZE, "sync_batch_norm": True} | recipe
    temporal = recipe.pop("temporal", False)
    parts = recipe.get("micro_batches", 1)
    return made(method, network, options, settings, recipe, temporal, rank=rank, world=world, parts=parts, **more)


def made(
    name: str, network: str, options: dict, settings: dict, recipe: dict, temporal: bool, *,
    start: Origin | None = None, **more: Any,
) -> Training:  # fmt: skip
    method = plugins.load("methods", name)
    task = Task(
        shape=(2, 6, 6), classes=CLASSES, time_steps=T if getattr(method, "SPIKING", True) else 1, temporal=temporal,
        network=network, network_options=options, start=start,
    )  # fmt: skip
    config = method.Config(**settings)
    config = method.resolve(config, task) if hasattr(method, "resolve") else config
    exact = SimpleNamespace(**vars(method))
    exact.build = lambda config, task: method.build(config, task).double()
    setup = Setup(exact, config, task, Train(**recipe), Images(temporal), seed=1, evaluation_batch_size=4, **more)  # type: ignore[arg-type]
    return Training(setup)


def learned(trained: Training) -> dict[str, Any]:
    """What must not depend on the number of workers, and the buffers, which must be alike on all."""
    epochs = list(trained.epochs())
    test = trained.evaluate("test")
    return {
        "losses": torch.tensor([[e.train_loss, e.train_accuracy, e.validation_loss] for e in epochs]),
        "accuracies": torch.tensor([e.validation_accuracy for e in epochs] + test.accuracies),
        "samples": test.samples,
        "weights": torch.cat([p.detach().flatten() for p in trained.net.parameters()]),
        "buffers": [buffer for buffer in trained.net.buffers() if buffer.is_floating_point()],
    }


def every_case(rank: int, world: int) -> dict[str, dict]:
    return {name: learned(training(name, rank, world)) for name in CASES}


@pytest.fixture(scope="module", params=[2, 4])
def several(request):
    return crew.run(every_case, request.param)


@pytest.fixture(scope="module")
def one():
    return every_case(0, 1)


@pytest.mark.parametrize("name", CASES)
def test_workers_learn_what_one_process_learns(name, one, several):
    for found in several:
        # Losses that are shown are sums of float32.
        for key, tolerance in (("losses", 1e-6), ("accuracies", 1e-9), ("weights", 1e-9)):
            torch.testing.assert_close(found[name][key], one[name][key], rtol=tolerance, atol=tolerance, msg=key)
        assert found[name]["samples"] == SIZES["test"]


@pytest.mark.parametrize("name", ["bptt, tdbn", "dsr, unrolled", "ide, deep", "sltt"])
def test_running_statistics_are_the_same_on_all_workers_and_on_one(name, one, several):
    for found in several:
        for ours, first, theirs in zip(
            found[name]["buffers"], several[0][name]["buffers"], one[name]["buffers"], strict=True
        ):
            assert torch.equal(ours, first)
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def started(rank: int, world: int) -> dict[str, Any]:
    """A conversion of a trained network, calibrated, and how it and its parts are judged."""
    source = training("ann", 0, 1)
    start = Origin("ann", source.setup.config.model_dump(), 1)
    given = {key: value.clone() for key, value in source.net.state_dict().items()}
    settings = {"calibration_percentile": 90.0, "calibration_batches": 2}
    trained = made(
        "conversion", *MLP, settings, {"epochs": 0, "batch_size": BATCH_SIZE}, False,
        start=start, rank=rank, world=world, weights=given,
    )  # fmt: skip
    list(trained.epochs())
    found = {"thresholds": torch.stack([b for n, b in trained.net.named_buffers() if n.endswith("v_threshold")])}
    for limit in (None, 1, 2):
        setup = trained.setup
        for size in (4, 5):
            tally = evaluation.evaluate(
                trained.net, setup.method, setup.config, setup.task, setup.feed, "validation",
                batch_size=size, limit_batches=limit, device=setup.device, rank=rank, world=world,
            )  # fmt: skip
            found[f"{size}, {limit}"] = torch.tensor([*tally.accuracies, tally.mean_loss, tally.samples])
    return found


@pytest.mark.parametrize("world", [2, 3, 4])
def test_evaluation_and_calibration_count_the_same_samples_once(world):
    alone = started(0, 1)
    assert [int(alone[key][-1]) for key in ("4, None", "4, 1", "5, 1", "5, 2")] == [7, 4, 5, 7]
    for found in crew.run(started, world):
        for key, expected in alone.items():
            torch.testing.assert_close(found[key], expected, rtol=1e-6, atol=0)
