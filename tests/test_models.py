import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from harness import plugins
from harness.contract import Task
from harness.models import catalog
from harness.models.layers import BatchNorm, Conv2d, Dropout, Flatten, Linear, Scale
from harness.models.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from harness.models.weights import standardised
from tests import tiny
from tests.tiny import moving, still

NETWORKS = plugins.names("networks")
INPUTS = {"still": still, "moving": moving}
both_inputs = pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)


def mnist(network: str, **options) -> Task:
    return Task(
        shape=(1, 28, 28), classes=10, time_steps=5, temporal=False, network=network, network_options=options
    )  # fmt: skip


def num_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def network(task: Task) -> nn.Module:
    torch.manual_seed(0)
    return catalog.build(task, nn.ReLU)


def test_parameters_of_the_mlp_are_counted_by_hand():
    assert num_parameters(network(mnist("mlp"))) == 784 * 800 + 2 * 800 + 800 * 10 + 10
    plain = network(mnist("mlp", hidden=(20, 30), batch_norm=False))
    assert num_parameters(plain) == 785 * 20 + 21 * 30 + 31 * 10


def test_parameters_of_the_convnet_are_counted_by_hand():
    assert num_parameters(network(mnist("convnet"))) == 9 * 32 + 64 + 9 * 32 * 64 + 128 + (64 * 7 * 7 + 1) * 10
    plain = network(mnist("convnet", stages=((4, 6), (5,)), batch_norm=False))
    assert num_parameters(plain) == 10 * 4 + (9 * 4 + 1) * 6 + (9 * 6 + 1) * 5 + (5 * 7 * 7 + 1) * 10


def torch_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0), nn.Linear(12, 3)
    )  # fmt: skip


def torch_convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(0),
        nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(0),
        nn.Flatten(), nn.Linear(6 * 2 * 2, 3),
    )  # fmt: skip


@pytest.mark.parametrize(("name", "torchs"), [("mlp", torch_mlp), ("convnet", torch_convnet)])
@both_inputs
def test_network_of_relus_is_torchs_with_time_merged_into_the_batch(name, torchs, inputs):
    ours = network(tiny.task(name)).double()
    torch.manual_seed(0)
    theirs, x = torchs().double(), inputs(dtype=torch.float64)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items() if "num_batches" not in key
    }
    for key, value in ours.named_parameters():
        assert torch.equal(value, dict(theirs.named_parameters())[key]), f"{key} starts elsewhere"

    found, expected = ours(x), theirs(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    found.pow(3).sum().backward()
    expected.pow(3).sum().backward()
    for key, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, dict(theirs.named_parameters())[key].grad, rtol=1e-6, atol=1e-8, msg=key)


@pytest.mark.parametrize(("name", "torchs"), [("mlp", torch_mlp), ("convnet", torch_convnet)])
def test_weights_of_a_network_are_at_home_in_torchs(name, torchs):
    ours, theirs, x = network(tiny.task(name)).double(), torchs().double(), moving(dtype=torch.float64)
    ours(x)  # moves running statistics
    theirs.load_state_dict(ours.state_dict(), strict=False)
    expected = theirs.eval()(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 9), (2, 5, 3)])
def test_convnet_leaves_out_pooling_of_a_single_pixel(shape):
    task = tiny.task("convnet", shape=shape, stages=((2,), (3,), (4,)))
    assert network(task)(torch.randn(4, 6, *shape)).shape == (4, 6, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_architecture_offers_what_the_catalog_asks_for(name):
    module = plugins.load("networks", name)
    assert isinstance(module.NETWORKS[name], module.Config)
    assert isinstance(module.FEEDBACK, bool)
    assert isinstance(module.SMALL, dict)
    assert isinstance(network(tiny.task(name)), nn.Module)


@pytest.mark.parametrize("name", NETWORKS)
def test_unknown_options_are_refused(name):
    with pytest.raises(ValidationError, match="widht"):
        catalog.config(tiny.task(name, widht=3))


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("mlp", {"hidden": ()}),
        ("mlp", {"dropout": 1.0}),
        ("convnet", {"stages": ()}),
        ("convnet", {"dropout": -0.1}),
        ("PreAct-ResNet-18", {"stages": ()}),
        ("PreAct-ResNet-18", {"stages": ((1, 0),)}),
        ("PreAct-ResNet-18", {"form": "mnist"}),
        ("VGG-11", {"layers": (8, "max")}),
        ("VGG-11", {"last_map": 0}),
        ("SEW-ResNet-18", {"connect": "OR"}),
        ("NF-ResNet-34", {"alpha": 0}),
    ],
)
def test_options_out_of_range_are_refused(name, option):
    with pytest.raises(ValidationError, match=next(iter(option))):
        catalog.config(tiny.task(name, **option))


def test_unknown_network_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"no network 'mpl' \(there are: .*mlp"):
        catalog.build(tiny.task("mpl"))


def test_options_change_the_defaults_of_their_network_only():
    given = catalog.config(mnist("64C5s (F64C5)", dropout=0.5))
    assert (given.widths, given.kernel_size, given.dropout) == ((64,), 5, 0.5)
    assert catalog.config(mnist("64C5s (F64C5)")).dropout == 0.2


LAYERS = [
    Conv2d(1, 4, 3, padding=1),
    Conv2d(1, 4, 5, stride=2, padding=2, bias=False),
    Conv2d(1, 4, 1, stride=2),
    standardised(Conv2d(1, 4, 3, padding=1)),
    AvgPool2d(2),
    AvgPool2d(3, stride=2, padding=1),
    AdaptiveAvgPool2d(1),
    AdaptiveAvgPool2d(9),
    MaxPool2d(3, stride=2, padding=1),
    Scale(2.74),
    Flatten(),
    nn.Sequential(Flatten(), Linear(64, 5)),
    Dropout(0.5),
    BatchNorm(1),
]
every_layer = pytest.mark.parametrize("layer", LAYERS, ids=str)


@every_layer
def test_layer_computes_equal_time_steps_once(layer):
    out = layer.eval()(still())
    assert out.stride(0) == 0
    copies = still().clone(memory_format=torch.contiguous_format)
    torch.testing.assert_close(out, layer(copies))


@every_layer
def test_layer_treats_every_time_step_alike(layer):
    x = moving()
    torch.testing.assert_close(layer.eval()(x), torch.stack([layer(step[None])[0] for step in x]))


@both_inputs
def test_dropout_has_one_mask_for_all_time_steps_of_a_sample(inputs):
    torch.manual_seed(0)
    x = inputs()
    out = Dropout(0.25).train()(x)
    dropped = out == 0
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert not torch.equal(dropped[:, 0], dropped[:, 1])
    torch.testing.assert_close(out[~dropped], x[~dropped] / 0.75)


def test_dropout_drops_the_share_it_is_given():
    torch.manual_seed(0)
    ones = torch.ones(1, 100, 1000)
    assert (Dropout(0.2).train()(ones) == 0).double().mean().item() == pytest.approx(0.2, abs=0.01)


def test_batch_norm_takes_statistics_over_time_batch_and_pixels():
    ours, theirs = BatchNorm(5).double(), nn.BatchNorm2d(5).double()
    x = torch.randn(4, 3, 5, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).unflatten(0, (4, 3)))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.flatten(0, 1)).unflatten(0, (4, 3)))


@both_inputs
def test_convolution_is_torchs_on_every_step(inputs):
    layer, x = Conv2d(1, 4, 5, stride=2, padding=2), inputs()
    expected = torch.stack([F.conv2d(step, layer.weight, layer.bias, stride=2, padding=2) for step in x])
    torch.testing.assert_close(layer(x), expected)
