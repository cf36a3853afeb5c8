import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness import plugins
from harness.models import winograd
from harness.operations import OperationCounter
from harness.record import Operations
from tests import tiny


def counted(net: nn.Module, run, *, samples: int = 2) -> Operations:
    counter = OperationCounter(net)
    with torch.no_grad(), counter:
        run()
    return counter.operations(samples)


def by_hand(layer: nn.Conv2d, x: Tensor) -> float:
    """Effective operations: the convolution of where the image and where the weights are not zero."""
    met = F.conv2d(
        (x != 0).double(), (layer.weight != 0).double(), None,
        layer.stride, layer.padding, layer.dilation, layer.groups,  # type: ignore[arg-type]
    )  # fmt: skip
    return met.sum().item()


def test_product_with_real_numbers_costs_multiply_accumulates_where_neither_factor_is_zero():
    net, x = nn.Linear(5, 3), torch.randn(2, 5)
    x[0, 1] = 0
    with torch.no_grad():
        net.weight[2, 0] = 0
    assert counted(net, lambda: net(x)) == Operations(Effective_MACs=(15 - 3 + 15 - 2) / 2, Effective_ACs=0, Dense=15)


@pytest.mark.parametrize("sizes", [(1.0, 1.0), (6.0, 6.0), (-0.5, 0.5)])
def test_spikes_of_any_one_size_cost_accumulates(sizes):
    net = nn.Linear(4, 3)
    spikes = torch.tensor([[sizes[0], 0, 0, sizes[1]], [0, 0, 0, sizes[1]]])
    assert counted(net, lambda: net(spikes)) == Operations(Effective_MACs=0, Effective_ACs=3 * 3 / 2, Dense=12)


def test_input_without_spikes_costs_nothing():
    net = nn.Linear(4, 3)
    assert counted(net, lambda: net(torch.zeros(2, 4))) == Operations(Effective_MACs=0, Effective_ACs=0, Dense=12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, 3, padding=1),
        nn.Conv2d(4, 8, 3, stride=2, padding=2, dilation=2),
        nn.Conv2d(4, 8, (1, 3), groups=2, padding=(0, 1), bias=False),
    ],
)
def test_zeros_that_pad_an_image_meet_no_weight(layer):
    x = torch.randn(2, 4, 5, 6) * (torch.rand(2, 4, 5, 6) < 0.5)
    with torch.no_grad():
        layer.weight *= torch.rand(layer.weight.shape) < 0.7
    found = counted(layer, lambda: layer(x))
    assert found.Effective_MACs == by_hand(layer, x) / 2
    whole = nn.Conv2d(4, 8, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    assert found.Dense == by_hand(whole, torch.ones_like(x)) / 2


def test_transposed_convolution_costs_what_its_output_is_made_of():
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2)
    x = (torch.rand(2, 4, 4, 4) < 0.5).float()
    ones = F.conv_transpose2d(x.double(), torch.ones_like(layer.weight).double(), None, 2, 1, 0, 2)
    assert counted(layer, lambda: layer(x)).Effective_ACs == ones.sum().item() / 2


def test_layers_that_a_method_calls_by_hand_are_counted_by_name():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    counter = OperationCounter(net)
    with torch.no_grad(), counter:
        F.linear(torch.ones(2, 4), net[1].weight[:1])
        F.linear(torch.ones(2, 4), 2 * net[1].weight[1:])
    assert list(counter.layers) == ["1"]
    assert (counter.layers["1"].dense, counter.layers["1"].passes) == (16, 2)  # two halves for each of two samples


def test_product_of_weights_alone_is_not_part_of_an_inference():
    net = nn.Linear(4, 4, bias=False)
    found = counted(net, lambda: (net.weight @ net.weight.T, net(torch.ones(2, 4))))
    assert found.Dense == 16


@pytest.mark.parametrize("temporal", [False, True])
def test_still_image_meets_the_first_layer_once_and_frames_at_every_step(temporal):
    method, task = plugins.load("methods", "bptt"), tiny.task()
    config = method.Config()
    net = method.build(config, task).eval()
    x = tiny.moving() if temporal else tiny.still()
    counter = OperationCounter(net)
    with torch.no_grad(), counter:
        method.predict(net, x, config)
    first = next(iter(counter.layers.values()))
    assert first.passes == (len(x) if temporal else 1) * x.shape[1]


def test_convolution_is_counted_as_such_however_it_is_computed(monkeypatch):
    monkeypatch.setattr(winograd, "FEWEST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "FEWEST_PIXELS", 1)
    method, task = plugins.load("methods", "dsr"), tiny.task("VGG-11")
    config = method.resolve(method.Config(), task)
    net = method.build(config, task).eval()
    counter = OperationCounter(net)
    with torch.no_grad(), counter:
        method.predict(net, tiny.still(), config)
    assert all(name.startswith(("body.", "readout.")) for name in counter.layers)


def test_layer_has_one_name_through_all_batches_in_half_precision_too():
    net, x = nn.Sequential(nn.Linear(4, 3)), torch.ones(2, 4)
    counter = OperationCounter(net)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(2):
            with counter:
                net(x)
    assert {name: layer.passes for name, layer in counter.layers.items()} == {"0": 4}


def test_compiled_neurons_are_counted_as_the_plain_loop():
    method, task = plugins.load("methods", "bptt"), tiny.task()
    config = method.Config()
    net = method.build(config, task).eval()
    counter = OperationCounter(net)
    for module in net.modules():
        if hasattr(module, "compile_loop"):
            module.compile_loop = True
    with torch.no_grad(), counter:
        method.predict(net, tiny.still(), config)
    assert len(counter.layers) == 2


class Spiking(nn.Module):
    """Convolutions and a linear layer between snnTorch's neurons, with a few weights that are zero."""

    def __init__(self, snn) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, stride=2, padding=1)
        self.first = snn.Leaky(0.9, threshold=0.3, init_hidden=True)
        self.grouped = nn.Conv2d(6, 4, 3, padding=1, groups=2)
        self.second = snn.Leaky(0.9, threshold=0.2, init_hidden=True)
        self.linear = nn.Linear(4 * 16, 5)
        self.last = snn.Leaky(0.9, init_hidden=True, output=True)
        _prune(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.linear(self.second(self.grouped(self.first(self.conv(x)))).flatten(1)))


class Ordinary(nn.Sequential):
    """The same layers between ReLUs."""

    def __init__(self, snn) -> None:
        super().__init__(
            nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1, groups=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(64, 5),
        )  # fmt: skip
        _prune(self)


@torch.no_grad()
def _prune(net: nn.Module) -> None:
    for p in net.parameters():
        p[p.abs() < 0.05] = 0


@pytest.mark.parametrize("spikes", [False, True], ids=["real input", "spikes"])
@pytest.mark.parametrize("make", [Spiking, Ordinary])
def test_figures_are_those_of_neurobench(make, spikes):
    reason = "NeuroBench is not installed: scripts/setup.sh does it"
    benchmarks = pytest.importorskip("neurobench.benchmarks", reason=reason)
    models, workload = pytest.importorskip("neurobench.models"), pytest.importorskip("neurobench.metrics.workload")
    snn = pytest.importorskip("snntorch")
    net = make(snn)
    x = (torch.rand(12, 5, 2, 8, 8) < 0.2).float() if spikes else torch.randn(12, 5, 2, 8, 8)
    wrapped = models.SNNTorchModel(net)
    if make is Ordinary:
        x, wrapped = x[:, 0], models.TorchModel(net)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(12)), batch_size=5)
    measured = benchmarks.Benchmark(wrapped, loader, [], [], [[], [workload.SynapticOperations]]).run(quiet=True)
    counter = OperationCounter(net)
    for batch, _ in loader:
        with torch.no_grad(), counter:
            wrapped(batch)
    assert counter.operations(12).model_dump() == measured["SynapticOperations"]
    assert measured["SynapticOperations"]["Effective_ACs" if spikes else "Effective_MACs"] > 0
