"""The conformance suite itself: the worked example passes, and broken in one place it fails the check for that."""

import json
from pathlib import Path

import pytest

from harness.conformance import run, suite
from harness.conformance.case import cases, refused, variants

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "direct_feedback.py"
STEP = "    logits = net(x)"
LOSS = "loss = F.cross_entropy(logits, y)"
PREDICT = "    return torch.stack(list(running_rates(net.body(x))))  # T B K"
SCORES = "    scores = torch.stack(list(running_rates(net.body(x))))\n"
BUILT = "        self.train()\n"
NEW = "\n\ndef build("

BROKEN = {
    "names": ("def predict(net: nn.Module, x: Tensor, config: Config)", "def predict(net: nn.Module, x: Tensor)"),
    "settings_are_described": ('"threshold theta"', '""'),
    "settings_are_frozen": ("class Config(MethodConfig):", 'class Config(MethodConfig, extra="ignore"):'),
    "skip": ('return f"dfa trains feed-forward networks; {task.network} has feedback" if', 'return "no" if'),
    "settings_survive_writing": (
        NEW, f"\n\ndef resolve(config, task):\n    return config.model_copy(update={{'leak': config.leak / 2}})\n{NEW}"
    ),
    "build": ("        self.body = ", "        torch.manual_seed(3)\n        self.body = "),
    "shape": (PREDICT, SCORES + "    return scores[-1]"),
    "samples_differ": (PREDICT, SCORES + "    return 0 * scores"),
    "repeats": (PREDICT, SCORES + "    return scores + 1e-6 * torch.rand(())"),
    "no_trace": (PREDICT, SCORES + "    net.train()\n    return scores"),
    "samples_apart": (PREDICT, SCORES + "    return scores - scores.mean(1, keepdim=True)"),
    "order": (PREDICT, SCORES + "    return scores.sort(dim=1).values"),
    "causal": (PREDICT, "    return net(x).expand(len(x), -1, -1)"),
    "still_view": (PREDICT, "    x = 2 * x if x.stride(0) == 0 else x\n" + PREDICT),
    "convergence": (NEW, f"\n\ndef convergence(net, x, config):\n    return {{'all': {{'': x.sum()}}}}\n{NEW}"),
    "input_untouched": (STEP, "    logits = net(x if x.stride(0) == 0 else x.mul_(0.5))"),
    "output": ("StepOutput(loss.detach(), logits.detach())", "StepOutput(loss, logits.detach())"),
    "every_gradient": (BUILT, BUILT + "        self.gain = nn.Parameter(torch.ones(1))\n"),
    "updates_once": ("    update()\n", "    update()\n    update()\n"),
    "parts": ("    loss.backward()", "    net.zero_grad()\n    loss.backward()"),
    "param_groups": (
        NEW, f"\n\ndef param_groups(net, config):\n    return [{{'params': list(net.parameters())[1:]}}]\n{NEW}"
    ),
    "start": (
        NEW, f"\n\ndef start(net, weights, batches, config):\n    net.load_state_dict(weights, strict=False)\n{NEW}"
    ),
    "scores_agree": ("logits = self.body(x).mean(0)", "logits = self.body(x).sum(0)"),
    "step_forgets": (
        "        for step in current:",
        "        v, self.v = v + getattr(self, 'v', 0), current.max().item()\n        for step in current:",
    ),
    "still_view_trains": (STEP, "    logits = net(2 * x if x.stride(0) == 0 else x)"),
    "seeds": (LOSS, LOSS + " * __import__('time').perf_counter()"),
    "state_dict": ("error = config,", "error = config.model_copy(update={'leak': torch.rand(()).item()}),"),
    "loss_falls": ("    loss.backward()", "    (-loss).backward()"),
    "probabilities": ("F.cross_entropy(logits, y)", "F.nll_loss(logits.log_softmax(1), y)"),
    "half_precision": ("direct.to(gradient.dtype).view", "direct.view"),
    "memory": ("\n\nclass Config", '\n\nMEMORY = "constant"\n\n\nclass Config'),
    "workers": (STEP, "    logits = getattr(net, 'module', net)(x)"),
}  # fmt: skip
"""For every check, a change to the worked example that makes it fail: (what is replaced, by what)."""
RAISES = ("half_precision", "probabilities")
"""Broken such that torch raises within the step; in all others the check itself finds it."""


def broken(name: str, folder: Path) -> str:
    before, after = BROKEN[name]
    text = EXAMPLE.read_text()
    assert before in text
    file = folder / "mine.py"
    file.write_text(text.replace(before, after))
    return str(file)


def test_every_check_is_failed_by_some_method():
    assert {check.name for check in [*suite.DECLARATION, *suite.CHECKS]} == BROKEN.keys()


@pytest.mark.parametrize("name", BROKEN)
def test_broken_method_fails_the_check_for_it(name, tmp_path):
    planned = suite.every(broken(name, tmp_path))
    ((check, tried, _),) = [each for each in planned if each[0].name == name]
    first = next(failure for case in tried for failure in run.failure(check, case))
    assert first.reason.startswith("RuntimeError") == (name in RAISES)


def test_worked_example_passes_every_check(harness):
    code, out, err = harness("check", EXAMPLE)
    assert code == 0, out
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:-1]].count("passed") == len(BROKEN) - 4
    absent = ["convergence:", "start:", "param_groups:", "memory:"]
    assert [line.split()[1] for line in lines if line.startswith("absent")] == absent
    assert "all 28 checks passed" in lines[-1]
    assert f"checking {EXAMPLE}: " in err


def test_worked_example_is_short_and_stands_in_the_readme():
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) < 100
    assert f"```python\n{text}```" in (ROOT / "methods" / "README.md").read_text()


def test_failed_check_is_told_with_case_and_reason(harness, tmp_path):
    method = broken("causal", tmp_path)
    code, out, err = harness("check", method, "--network", "mlp", "--quiet")
    assert (code, err) == (1, "")
    assert "FAILED  causal: Prediction after t steps does not know what comes later" in out
    assert "scores after 1 of 9 steps are not those of an input that ends there" in out
    assert "1 of 28 checks FAILED" in out
    code, out, _ = harness("check", method, "--network", "mlp", "--json")
    assert code == 1
    found = {result["check"]: result for result in json.loads(out)}
    assert [name for name, result in found.items() if result["state"] == "failed"] == ["causal"]
    assert found["causal"]["failures"][0]["case"] == "mlp, still"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["btpp"], "no method 'btpp'; did you mean 'bptt'?"),
        (["no.such.module"], "no method 'no.such.module'"),
        (["no_such.py"], "no file 'no_such.py'"),
        (["bptt", "--network", "mpl"], "no network 'mpl'; did you mean 'mlp'?"),
        (["bptt", "--network", "400 (F400)"], "bptt trains feed-forward networks; 400 (F400) has feedback"),
    ],
)
def test_unknown_name_is_one_line_and_exit_code_2(harness, arguments, complaint):
    code, out, err = harness("check", *arguments, "--quiet")
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_method_whose_declaration_is_wrong_is_tried_no_further(tmp_path):
    states = [result.state for result in run.results(broken("names", tmp_path))]
    assert states == ["failed", *["passed"] * (len(suite.DECLARATION) - 1)]


def test_settings_are_tried_alone_and_together():
    found = variants("dsr")
    assert {"neuron": "lif"} in found
    assert {"gradient": "unrolled"} in found
    assert found[-1].keys() > {"neuron", "gradient", "readout"}
    assert cases("dsr")[0].settings == {}


def test_choice_that_needs_another_setting_is_left_out_alone_and_listed(tmp_path):
    text = EXAMPLE.read_text().replace("\n\nclass Neuron", VALIDATOR, 1).replace("import torch\n", IMPORTS, 1)
    file = tmp_path / "mine.py"
    file.write_text(text)
    assert refused(str(file)) == [({"exact": True}, "Value error, exact needs v_threshold 2")]
    assert {"exact": True} not in variants(str(file))
    assert "not tried alone: exact=True: Value error, exact needs v_threshold 2" in run.summary(str(file), [])


IMPORTS = "import torch\nfrom pydantic import model_validator\n"
VALIDATOR = """
    exact: bool = setting(False, "nothing")

    @model_validator(mode="after")
    def _check(self):
        if self.exact and self.v_threshold != 2:
            raise ValueError("exact needs v_threshold 2")
        return self


class Neuron"""


def test_pytest_collects_an_item_for_every_check_and_case(pytester, tmp_path):
    method = broken("shape", tmp_path)
    arguments = ["-p", "harness.pytest_plugin", "--harness-method", method, "-k", "shape or names"]
    result = pytester.runpytest_inprocess(*arguments)
    outcomes = result.parseoutcomes()
    assert (outcomes["passed"], outcomes["failed"] >= 10) == (1, True)
    result.stdout.fnmatch_lines(["*scores have shape (6, 3) for x of shape (4, 6, ...)*not (T, B, K) = (4, 6, 3)*"])


def test_pytest_without_the_option_collects_nothing_of_ours(pytester):
    pytester.makepyfile("def test_theirs(): pass")
    pytester.runpytest_inprocess("-p", "harness.pytest_plugin").assert_outcomes(passed=1)
    result = pytester.runpytest_inprocess("-p", "harness.pytest_plugin", "--harness-method", "btpp")
    result.stderr.fnmatch_lines(["*--harness-method btpp: no method 'btpp'; did you mean 'bptt'?*"])
