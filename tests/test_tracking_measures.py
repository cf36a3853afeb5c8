import pytest

from harness.record import Record
from harness.tracking import measures
from tests import records


def series(record, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in measures.metrics(record) if point.name == name]


def test_curves_over_time_have_t_as_their_step():
    full = records.full()
    assert series(full, "accuracy_top5_at_t") == [(1, 96.0), (2, 97.0), (3, 98.0), (4, 99.0)]
    assert series(full, "latency/batch 1/p99_ms") == [(1, 3.0), (4, 12.0)]
    assert series(full, "latency/batch 1/samples_per_second") == [(1, 1000.0), (4, 250.0)]
    assert series(full, "convergence/representation_error/layer0") == [(1, 0.4), (2, 0.3), (3, 0.2), (4, 0.1)]


def test_an_early_exit_has_its_confidence_as_its_step():
    full = records.full()
    assert series(full, "early_exit/mean_time_steps") == [(500, 2.0), (900, 3.6)]
    assert series(full, "early_exit/accuracy") == [(500, 85.0), (900, 89.0)]


def test_what_an_inference_costs_has_all_t_steps_as_its_step_and_the_field_s_names():
    found = {p.name: p.value for p in measures.metrics(records.full()) if p.step == 4 and p.name.startswith("cost/")}
    wanted = {
        "parameters": 1000, "neurons": 80, "Effective_MACs": 20, "Effective_ACs": 30, "Dense": 90, "SynOps": 30,
        "energy_nanojoules": 1, "energy_memory_nanojoules": 2, "energy_ann_nanojoules": 3,
        "energy_ann_memory_nanojoules": 4, "latency_ms": 4, "firing_rate/layer0": 0.1, "firing_rate/layer1": 0.3,
        "mean_firing_rate": 0.2, "dead/layer0": 0.25, "dead/layer1": 0.75, "mean_dead": 0.5,
        "saturated/layer0": 0.125, "mean_saturated": 0.125,
    }  # fmt: skip
    assert found == {f"cost/{name}": value for name, value in wanted.items()}


def test_totals_of_a_trial_stand_at_step_0():
    found = {p.name: p.value for p in measures.metrics(records.full()) if p.step == 0 and "system/" not in p.name}
    assert found["training/worker_hours"] == 0.5
    assert found["training/accelerator_hours"] == 0.25
    assert (found["test_accuracy"], found["test_accuracy_top5"], found["micro_batches"]) == (90.0, 99.0, 2)


def test_a_record_of_the_first_schema_says_what_it_knows():
    found = {p.name: p.value for p in measures.metrics(records.made(cost=records.measured()))}
    assert (found["cost/SynOps"], found["cost/MACs"]) == (1.25e6, 2e5)
    assert "cost/Effective_ACs" not in found
    assert "accuracy_top5_at_t" not in found


def test_epochs_stand_at_the_time_they_ended():
    found = [(p.step, p.seconds) for p in measures.metrics(records.full()) if p.name == "epoch/train_loss"]
    assert found == [(1, 3.0), (2, 6.0)]


@pytest.mark.parametrize("field", ["accuracy_top5", "early_exit", "convergence", "system", "cost", "history"])
def test_what_was_not_measured_is_absent(field):
    default = Record.model_fields[field].get_default(call_default_factory=True)
    without = records.full().model_copy(update={field: default})
    assert len(measures.metrics(without)) < len(measures.metrics(records.full()))
    assert all(point.value is not None for point in measures.metrics(without))


def test_passwords_in_commands_and_reasons_do_not_reach_tags():
    record = records.broken(
        "failed", "no answer from http://me:word@host/x", command="harness track http://me:word@host"
    )
    tags = measures.tags(record)
    assert "word" not in str(tags)
    assert tags["mlflow.source.name"] == "harness track http://…@host"
