"""Finds trials in MLflow, by its own filter syntax."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.plugins import unknown
from harness.tracking.server import Refused, client, database, default_uri, public, translated

PAGE = 1000
MORE_IS_BETTER = ("accuracy", "samples_per_second")
"""What the names of metrics hold of which the highest is the best; of all others it is the lowest."""


def find(
    query: str | None, uri: str | None, *, experiment: str | None = None, best: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """The trials that a filter such as "params.method = 'dsr' and metrics.test_accuracy > 90" lets through.

    The latest come first or, with `best`, those with the best value of this metric; those without it are left out.
    Raises Refused for a filter, experiment or metric that cannot be, TrackingError when MLflow is away.
    """
    uri = uri or default_uri()
    file = database(uri)
    if file is not None and not file.exists():
        raise Refused(f"{public(uri)}: no such database; give --uri, or set MLFLOW_TRACKING_URI")
    with translated():
        ours = client(uri)
        experiments = {each.name: each.experiment_id for each in ours.search_experiments()}
    if experiment is not None and experiment not in experiments:
        raise Refused(unknown("experiment", experiment, experiments))
    places = [experiments[experiment]] if experiment else list(experiments.values())
    order = [f"metrics.`{best}` {'DESC' if is_more_better(best) else 'ASC'}"] if best else []
    found = _search(ours, places, query, order, limit)
    names = {number: name for name, number in experiments.items()}
    if best and found and not any(best in run.data.metrics for run in found):
        raise Refused(unknown("metric", best, {name for run in found for name in run.data.metrics}))
    return [_row(run, names, best) for run in found if not best or best in run.data.metrics]


def is_more_better(metric: str) -> bool:
    """Whether the highest value of a metric is the best."""
    return any(part in metric for part in MORE_IS_BETTER)


def readable(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows for a terminal's table: what tells trials apart first, figures rounded, nothing for what is not known."""
    named = {"method": "method", "T": "time_steps", "seed": "seed", "accuracy": "accuracy", "outcome": "outcome"}
    own = ("network", "dataset", "experiment")
    varying = [name for name in own if len({row[name] for row in rows}) > 1]
    further = [name for name in rows[0] if name not in {*named.values(), *own, "run_id", "trial"}] if rows else []
    columns = named | {name: name for name in [*further, *varying]} | {"run": "run_id"}
    return [{title: _text(row[name]) for title, name in columns.items()} for row in rows]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _search(ours: Any, places: list[str], query: str | None, order: list[str], limit: int) -> list[Any]:
    condition = "tags.`harness.trial` LIKE '%'"
    if query and query.strip():
        condition = f"{query} and {condition}"
    found: list[Any] = []
    token = None
    while len(found) < limit:
        with translated(), _refused():
            page = ours.search_runs(
                places, condition, max_results=min(PAGE, limit - len(found)), order_by=order, page_token=token
            )
        found += page
        if not (token := page.token):
            break
    return found


@contextmanager
def _refused() -> Iterator[None]:
    """Tell a filter that is wrong from a server that is away."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
            raise
        text = public(" ".join(error.message.removeprefix("INVALID_PARAMETER_VALUE: ").split()))
        raise Refused(f"MLflow does not take this filter: {text[:300]}") from None


def _row(run: Any, experiments: dict[str, str], metric: str | None) -> dict[str, Any]:
    """What `harness runs` shows of a run; numbers as numbers, what it does not have as None."""
    params, metrics, tags = run.data.params, run.data.metrics, run.data.tags
    row = {
        "run_id": run.info.run_id,
        "experiment": experiments.get(run.info.experiment_id),
        "trial": tags.get("harness.trial"),
        "dataset": tags.get("dataset"),
        "network": params.get("network.name"),
        "method": params.get("label") or params.get("method"),
        "time_steps": _integer(params.get("time_steps")),
        "seed": _integer(params.get("seed")),
        "accuracy": metrics.get("test_accuracy"),
        "outcome": tags.get("outcome"),
    }
    return row | ({metric: metrics[metric]} if metric and metric in metrics and metric != "test_accuracy" else {})


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
