"""An experiment cut down to a trial run of the same path."""

from harness.config.experiment import Experiment, Train

SMOKE_BATCH_SIZE, SMOKE_TIME_STEPS = 4, 4


def smoke(experiment: Experiment) -> Experiment:
    """The same experiment cut down to about a minute: few time steps, one seed, first grid values, two batches."""
    batch_size = max(experiment.scale.workers, SMOKE_BATCH_SIZE // experiment.scale.workers * experiment.scale.workers)
    fast = {
        "epochs": min(1, experiment.train.epochs), "limit_batches": 2, "warmup_steps": 0, "schedule": "constant",
        "milestones": (), "batch_size": min(batch_size, experiment.train.batch_size), "micro_batches": 1,
    }  # fmt: skip
    kept = {key: value for key, value in experiment.train.model_dump().items() if key not in fast}
    methods = [
        entry.model_copy(
            update={
                "grid": {key: values[:1] for key, values in entry.grid.items()},
                "time_steps": entry.time_steps and _fewest(entry.time_steps),
                # What is not trained stays untrained.
                "train": {k: v for k, v in entry.train.items() if k not in fast or (k, v) == ("epochs", 0)},
                # One T is left of every method, so there is nothing to choose.
                "start": entry.start and entry.start.model_copy(update={"time_steps": None}),
            }
        )
        for entry in experiment.methods
    ]
    sweep = experiment.sweep.model_copy(update={"trials": experiment.sweep.trials and 2})
    return experiment.model_copy(
        update={
            "methods": tuple(methods),
            "time_steps": _fewest(experiment.time_steps),
            "seeds": experiment.seeds[:1],
            "train": Train.model_validate({**kept, **fast}),
            "sweep": sweep,
            "evaluation": experiment.evaluation.model_copy(
                update={
                    "latency_repeats": min(1, experiment.evaluation.latency_repeats),
                    "batch_size": min(batch_size, experiment.evaluation.batch_size),
                }
            ),
            "tracking": experiment.tracking.model_copy(update={"mlflow": False}),
            "results": f"{experiment.results.rstrip('/')}/smoke",
        }
    )


def _fewest(time_steps: tuple[int, ...]) -> tuple[int]:
    """The shortest T, cut."""
    return (min(*time_steps, SMOKE_TIME_STEPS),)
