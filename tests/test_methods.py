"""The contract: what every file in `methods/` has to do, on every network that it accepts."""

import itertools
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import ValidationError
from torch.nn.parallel import DistributedDataParallel

from harness import plugins
from harness.contract import Method, MethodConfig
from harness.loop import in_time
from tests import tiny
from tests.tiny import labels, moving, still

METHODS = plugins.names("methods")
NETWORKS = sorted({next(iter(plugins.load("networks", name).NETWORKS)) for name in plugins.names("networks")})
"""One network of each architecture."""


def product(**choices) -> list[dict]:
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


VARIANTS: dict[str, list[dict]] = {
    "ann": [{}, {"activation": "qcfs", "readout": "rectified"}],
    "bptt": [
        *product(surrogate=["rectangle", "triangle", "sigmoid", "arctan"]),
        {"reset": "soft"},
        {"detach_reset": True},
        {"leak": 1.0},
    ],
    "dsr": [
        *product(neuron=["if", "lif"], gradient=["representation", "unrolled"], readout=["spiking", "linear"]),
        {"train_threshold": False},
    ],
    "ide": product(neuron=["if", "lif"], solver=["neumann", "anderson", "broyden"]),
}
"""Settings that a method is tried with; one that is not named here with its defaults."""


class Case(NamedTuple):
    """A method with settings, on a network that it accepts."""

    method: str
    settings: dict
    network: str

    def __str__(self) -> str:
        return "-".join([self.method, *map(str, self.settings.values()), self.network])

    def build(self, *, seed: int = 0, **options):
        """Method, config and a new network, whose deeper neurons would be silent in evaluation without training."""
        method, config, net = tiny.build(self.method, self.settings, tiny.task(self.network, **options), seed=seed)
        for name, buffer in net.named_buffers():
            if name.endswith("running_var"):
                buffer.fill_(0.02)
        return method, config, net

    def build_exact(self, **options):
        """The same in eval mode and float64, where rounding does not flip spikes."""
        method, config, net = self.build(**options)
        return method, config, net.double().eval()

    @property
    def is_trained(self) -> bool:
        return getattr(plugins.load("methods", self.method), "TRAINED", True)

    @property
    def follows_time(self) -> bool:
        return getattr(plugins.load("methods", self.method), "SPIKING", True)


def accepted(method: str, network: str) -> bool:
    module = plugins.load("methods", method)
    return getattr(module, "skip", lambda config, task: None)(module.Config(), tiny.task(network)) is None


def variants(method: str, network: str) -> list[dict]:
    every = VARIANTS.get(method, [{}])
    return every if network in ("mlp", "400 (F400)") else every[::3]


CASES = [
    Case(method, settings, network)
    for method in METHODS
    for network in NETWORKS
    if accepted(method, network)
    for settings in variants(method, network)
]
INPUTS = {"still": still, "moving": moving}

TRAINED_CASES = [case for case in CASES if case.is_trained]

every_method = pytest.mark.parametrize("name", METHODS)
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_trained_case = pytest.mark.parametrize("case", TRAINED_CASES, ids=str)
both_inputs = pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)


@every_method
def test_module_has_the_names_of_the_contract(name):
    module = plugins.load("methods", name)
    assert isinstance(module, Method)
    assert issubclass(module.Config, MethodConfig)
    assert module.__doc__


@every_method
def test_every_setting_is_described_and_has_a_default(name):
    config = plugins.load("methods", name).Config
    fields = config.model_fields
    assert [key for key, field in fields.items() if not field.description] == []
    assert config() == config()


@every_method
def test_unknown_settings_are_refused_and_known_ones_frozen(name):
    config = plugins.load("methods", name).Config
    with pytest.raises(ValidationError, match="learning_rte"):
        config(learning_rte=0.1)
    with pytest.raises(ValidationError, match="frozen"):
        config().learning_rte = 0.1


@every_method
def test_settings_survive_being_written_down(name):
    config = plugins.load("methods", name).Config
    for settings in VARIANTS.get(name, [{}]):
        given = config(**settings)
        assert config.model_validate_json(given.model_dump_json()) == given


@every_method
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_accepted_or_refused_in_a_sentence(name, network):
    module = plugins.load("methods", name)
    skip = getattr(module, "skip", lambda config, task: None)
    reason = skip(module.Config(), tiny.task(network))
    assert reason is None or (name in reason and network in reason and len(reason.split()) > 3)


@every_method
def test_some_network_is_accepted(name):
    assert any(accepted(name, network) for network in NETWORKS)


def weights(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@every_case
def test_build_draws_from_the_global_generator_and_stays_on_the_cpu(case):
    (_, _, one), (_, _, same), (_, _, other) = case.build(), case.build(), case.build(seed=1)
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other))
    assert {p.device.type for p in one.parameters()} == {"cpu"}
    assert {p.dtype for p in one.parameters()} == {torch.float32}


@every_case
@both_inputs
@pytest.mark.parametrize(("time_steps", "batch_size"), [(4, 6), (9, 2), (1, 1)])
@torch.no_grad()
def test_prediction_is_a_finite_score_for_every_step_sample_and_class(case, inputs, time_steps, batch_size):
    method, config, net = case.build(time_steps=time_steps)
    scores = method.predict(net.eval(), inputs(time_steps, batch_size), config)
    assert scores.shape == (time_steps, batch_size, 3)
    assert scores.isfinite().all()


@every_case
@both_inputs
@torch.no_grad()
def test_prediction_tells_samples_apart(case, inputs):
    method, config, net = case.build()
    assert (method.predict(net.eval(), inputs(), config)[-1].std(0) > 0).any()


@every_case
@both_inputs
@torch.no_grad()
def test_prediction_repeats_bit_for_bit_and_leaves_no_trace(case, inputs):
    method, config, net = case.build()
    before = {key: value.clone() for key, value in net.eval().state_dict().items()}
    first = method.predict(net, inputs(), config)
    torch.rand(3)
    assert torch.equal(method.predict(net, inputs(), config), first)
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not net.training


@every_case
@both_inputs
@torch.no_grad()
def test_prediction_for_a_sample_ignores_the_others(case, inputs):
    method, config, net = case.build_exact()
    x = inputs(dtype=torch.float64)
    together = method.predict(net, x, config)
    for sample in range(x.shape[1]):
        alone = method.predict(net, x[:, sample : sample + 1], config)
        torch.testing.assert_close(together[:, sample : sample + 1], alone, rtol=1e-9, atol=1e-9)


@every_case
@both_inputs
@torch.no_grad()
def test_prediction_follows_the_order_of_the_samples(case, inputs):
    method, config, net = case.build_exact()
    x, order = inputs(dtype=torch.float64), torch.tensor([3, 1, 0, 5, 4, 2])
    images = x[0] if x.stride(0) == 0 else x
    shuffled = images[order].expand_as(x) if x.stride(0) == 0 else x[:, order]
    expected = method.predict(net, x, config)[:, order]
    torch.testing.assert_close(method.predict(net, shuffled, config), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.follows_time], ids=str)
@both_inputs
@torch.no_grad()
def test_prediction_after_t_steps_does_not_know_what_comes_later(case, inputs):
    method, config, net = case.build_exact(time_steps=9)
    x = inputs(9, dtype=torch.float64)
    whole = method.predict(net, x, config)
    for t in (1, 4, 8):
        torch.testing.assert_close(whole[:t], method.predict(net, x[:t], config), rtol=1e-9, atol=1e-9)


@every_case
@torch.no_grad()
def test_image_repeated_without_copies_is_the_image_repeated_in_memory(case):
    method, config, net = case.build_exact()
    x = still(dtype=torch.float64)
    copies = x.clone(memory_format=torch.contiguous_format)
    assert (x.stride(0), copies.stride(0)) == (0, 6 * 64)
    expected = method.predict(net, copies, config)
    torch.testing.assert_close(method.predict(net, x, config), expected, rtol=1e-9, atol=1e-9)


@every_trained_case
def test_training_on_an_image_repeated_without_copies_is_training_on_copies(case):
    method, config, view = case.build()
    _, _, copied = case.build()
    x = still(dtype=torch.float64)
    torch.manual_seed(1)
    _, found = tiny.gradients(method, config, view.double().train(), x, labels())
    torch.manual_seed(1)
    copies = x.clone(memory_format=torch.contiguous_format)
    _, expected = tiny.gradients(method, config, copied.double().train(), copies, labels())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-9, msg=name)


@every_trained_case
@both_inputs
def test_input_is_not_written_to(case, inputs):
    method, config, net = case.build()
    x, y = inputs(), labels()
    tiny.gradients(method, config, net.train(), x, y)
    with torch.no_grad():
        method.predict(net.eval(), x, config)
    assert torch.equal(x, inputs())
    assert torch.equal(y, labels())


@every_trained_case
@both_inputs
def test_step_reports_loss_and_scores_without_a_graph(case, inputs):
    method, config, net = case.build()
    output, _ = tiny.gradients(method, config, net.train(), inputs(), labels())
    assert output.loss.shape == ()
    assert output.loss.isfinite()
    assert output.logits.shape == (6, 3)
    assert output.logits.isfinite().all()
    assert not output.loss.requires_grad
    assert not output.logits.requires_grad
    assert all(isinstance(value, float) for value in output.extras.values())


@every_trained_case
@both_inputs
def test_every_parameter_has_a_gradient_when_update_is_called_and_none_afterwards(case, inputs):
    method, config, net = case.build()
    calls = []

    def update() -> None:
        calls.append({name: p.grad for name, p in net.named_parameters()})
        net.zero_grad(set_to_none=True)

    method.train_step(net.train(), inputs(), labels(), config, update)
    assert calls
    assert [name for name, gradient in calls[0].items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in calls[0].values())
    assert any(gradient.abs().sum() > 0 for gradient in calls[0].values())
    assert [name for name, p in net.named_parameters() if p.grad is not None] == []


def trained(case: Case, x: torch.Tensor, steps: int, *, lr: float = 0.01, wrap=lambda net: net):
    """The network after some steps on one batch, and the loss before each of them."""
    method, config, net = case.build()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)

    def update() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    y = labels(x.shape[1])
    wrapped = wrap(net.train())
    losses = [method.train_step(wrapped, x, y, config, update).loss.item() for _ in range(steps)]
    return net, losses


@every_trained_case
@both_inputs
def test_two_steps_from_the_same_seed_end_in_the_same_bits(case, inputs):
    (one, losses), (other, same_losses) = trained(case, inputs(), 2), trained(case, inputs(), 2)
    assert losses == same_losses
    expected = other.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in one.state_dict().items())


@every_trained_case
@torch.no_grad()
def test_saved_weights_predict_as_the_network_they_were_saved_from(case):
    with torch.enable_grad():
        net, _ = trained(case, still(), 2)
    method, config, other = case.build(seed=1)
    other.load_state_dict(net.state_dict())
    expected = method.predict(net.eval(), still(), config)
    assert torch.equal(method.predict(other.eval(), still(), config), expected)


@every_trained_case
@both_inputs
def test_loss_falls_on_a_separable_problem(case, inputs):
    # Class k is bright in the k-th third of the image, and nothing but noise elsewhere.
    x = 0.1 * inputs(batch_size=12)
    for sample, y in enumerate(labels(12).tolist()):
        x = x + torch.zeros_like(x).index_fill_(1, torch.tensor(sample), 1) * bright(y)
    x = x[:1].expand_as(x) if inputs is still else x
    _, losses = trained(case, x, 16, lr=0.03)
    assert losses[-1] < 0.75 * losses[0]


def bright(y: int) -> torch.Tensor:
    image = torch.zeros(8, 8)
    image[:, 3 * y : 3 * y + 2] = 2
    return image


@every_trained_case
def test_labels_may_be_probabilities(case):
    method, config, net = case.build()
    _, _, same = case.build()
    hard, _ = tiny.gradients(method, config, seeded(net), still(), labels())
    soft, _ = tiny.gradients(method, config, seeded(same), still(), F.one_hot(labels(), 3).float())
    torch.testing.assert_close(soft.loss, hard.loss)
    even, _ = tiny.gradients(method, config, seeded(net), still(), torch.full((6, 3), 1 / 3))
    assert even.loss.isfinite()


def seeded(net: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(2)  # for dropout
    return net.train()


@every_trained_case
@both_inputs
def test_half_precision_trains_float32_weights_and_stays_finite(case, inputs):
    method, config, net = case.build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, gradients = tiny.gradients(method, config, net.train(), inputs(), labels())
        with torch.no_grad():
            scores = method.predict(net.eval(), inputs(), config)
    assert output.loss.isfinite()
    assert scores.isfinite().all()
    assert all(g.isfinite().all() and g.dtype == torch.float32 for g in gradients.values())


@pytest.fixture
def one_worker(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@every_method
def test_wrapped_for_several_workers_a_method_trains_alike(name, one_worker):
    module = plugins.load("methods", name)
    if not getattr(module, "TRAINED", True):
        pytest.skip("nothing is trained")
    if getattr(module, "REDUCE", "ddp") == "explicit":
        pytest.skip("gradients are averaged in update()")
    case = next(case for case in CASES if case.method == name)
    torch.manual_seed(2)
    net, losses = trained(case, still(), 2)
    torch.manual_seed(2)
    wrapped, same_losses = trained(case, still(), 2, wrap=DistributedDataParallel)
    assert losses == pytest.approx(same_losses)
    for key, value in wrapped.state_dict().items():
        torch.testing.assert_close(value, net.state_dict()[key], msg=key)


@every_method
def test_input_arrives_as_the_loop_makes_it(name):
    case = next(case for case in CASES if case.method == name)
    method, config, net = case.build()
    images = still()[0]
    with torch.no_grad():
        found = method.predict(net.eval(), in_time(images, tiny.task(case.network)), config)
        assert torch.equal(found, method.predict(net, still(), config))
