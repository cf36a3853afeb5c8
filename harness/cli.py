"""The commands: parse, call, print; nothing else. Results go to stdout, everything else to stderr."""

import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
import yaml

import harness
from harness import (
    cluster,
    data_cli,
    exchange_cli,
    experiment_file,
    job,
    job_cli,
    plan_cli,
    provenance,
    results_cli,
    sealed,
    storage,
    tables_cli,
    tracking_cli,
)
from harness.command import File, Json, Quiet, Set, refused, say, short, show
from harness.config import Experiment, schema, smoke
from harness.experiment_file import ConfigError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark training methods of spiking neural networks: one YAML file, one table of accuracy against latency.",
    epilog="Exit codes: 0 done, 1 failure, 2 the request was wrong, 3 some trials failed, 130/143 interrupted.",
)
app.add_typer(data_cli.app, name="data")
app.add_typer(job_cli.app)
app.add_typer(tables_cli.app)
app.add_typer(results_cli.app)
app.add_typer(tracking_cli.app)
app.add_typer(exchange_cli.app)
plan_cli.register(app, lambda file, set_, prepare: _read(file, set_, prepare))

Smoke = Annotated[bool, typer.Option("--smoke", help="A minute's trial of the same path: few batches, one epoch.")]


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    datasets = "datasets"
    networks = "networks"
    configs = "configs"


def main() -> None:
    """Run the command line; a wrong request becomes one line and exit code 2."""
    from harness.interrupt import Interrupted
    from harness.patience import GaveUp

    cluster.prepare_environment()
    try:
        sealed.unseal()
        app()
    except ConfigError as error:
        print(f"harness: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        resume = provenance.command()
        print(f"harness: stopped by {stop}; what was done is saved. Resume with: {resume}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except GaveUp as why:
        print(f"harness: {why}: {' '.join(['harness', *sys.argv[1:]])}", file=sys.stderr)
        sys.exit(1)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"snn-harness {harness.__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version)] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


@app.command(epilog="Example: harness sweep configs/digits.yaml --set train.epochs=40 --set seeds=[0,1,2,3,4]")
def sweep(file: File, set_: Set = None, smoke: Smoke = False, quiet: Quiet = False, json_: Json = False) -> None:
    """Train every combination that FILE names and print accuracy against latency.

    Trials that have a record are not run again, so the same command continues an interrupted sweep.
    """
    experiment = job.placed(_experiment(file, set_, smoke, quiet))
    with job.kept(experiment) as keeper:
        _swept(experiment, _prepared(experiment, str(file), quiet), keeper, quiet, json_)


def _swept(experiment: Experiment, trials: list, keeper: job.Kept | None, quiet: bool, json_: bool) -> None:
    """Run the trials and say what came out; `keeper` is told how the job goes that this is, if it is one."""
    from harness import publish, sweep
    from harness.progress import Display
    from harness.tracking import Tracker

    ahead = sweep.ahead(experiment, trials)
    if keeper:
        keeper.plan(len(trials), len(ahead))
    tracker = Tracker(experiment.tracking.uri, experiment.name) if experiment.tracking.mlflow else None
    problems: list[str] = []
    try:
        with Display(ahead, quiet=quiet) as display:
            summary = sweep.run(experiment, trials, [each for each in (display, tracker, keeper) if each])
        files = publish.write(experiment, summary.records)
        if tracker:
            tracker.ended(summary.records, experiment.folder, files)
    finally:
        problems = tracker.close(timeout=60) if tracker else []
    if json_:
        print(publish.rendered(summary.records, "json"))
    else:
        show(publish.table(summary.records))
    say(quiet, f"{summary.skipped} of {len(trials)} trials were measured before" if summary.skipped else "")
    say(quiet, "written: " + ", ".join(short(path) for path in files))
    for problem in problems:
        say(False, problem)
    for remark in tracker.remarks if tracker else []:
        say(quiet, remark)
    for failed in summary.failed:
        say(False, f"failed: {failed.id}: {failed.reason}")
    if summary.failed:
        raise typer.Exit(3)


@app.command(epilog="Example: harness train configs/mnist.yaml --method dsr --time-steps 5 --seed 0")
def train(
    file: File,
    method: Annotated[str | None, typer.Option(help="Label of the method; by default the file's first.")] = None,
    time_steps: Annotated[int | None, typer.Option(help="Length of the simulation, T.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the trial.")] = None,
    set_: Set = None, smoke: Smoke = False, quiet: Quiet = False, json_: Json = False,
) -> None:  # fmt: skip
    """Train one trial of FILE here, without Ray: the first that fits the options."""
    from harness import backlog, sweep
    from harness.progress import described, epoch_line

    experiment = job.placed(_experiment(file, set_, smoke, quiet))
    wanted = {"label": method, "time_steps": time_steps, "seed": seed}
    trials = _prepared(experiment, str(file), quiet)
    fitting = [t for t in trials if all(value in (None, getattr(t, key)) for key, value in wanted.items())]
    if not fitting:
        given = ", ".join(f"{key}={value}" for key, value in wanted.items() if value is not None)
        raise ConfigError(f"{file}: no trial with {given} (there are: {_offered(trials)})")
    trial = fitting[0]
    for each in backlog.due([trial], experiment.folder)[1:]:
        say(quiet, f"starts from {each.name}, which has no record yet and runs first")
    say(quiet, f"trial {trial.id}: {trial.label}, T={trial.time_steps}, seed {trial.seed}")

    result = sweep.run_one(experiment, trial, lambda metrics: say(quiet, epoch_line(metrics)))
    print(result.model_dump_json(indent=1, exclude_none=True) if json_ else described(result))
    if result.outcome == "failed":
        raise typer.Exit(1)


@app.command(epilog="Example: harness evaluate results/digits/0123456789ab.json --time-steps 1,2,4,8")
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Record of a finished trial, or its id under results/.")],
    time_steps: Annotated[str, typer.Option(help="Simulation lengths, separated by commas.")],
    json_: Json = False,
) -> None:
    """Test accuracy of a trained network at other time steps, each simulated on its own."""
    from harness import record, trial

    steps = _integers(time_steps)
    with refused():
        file = record.find(run)
        result = record.read(file)
    if result.outcome != "done":
        raise ConfigError(f"{run}: outcome '{result.outcome}' ({result.reason}); only a finished trial has weights")
    with refused():
        found = {step: trial.reevaluate(result, file.absolute().parent, step).accuracies[-1] for step in steps}
    if json_:
        print(json.dumps({"id": result.id, "trained_time_steps": result.trial["time_steps"], "accuracy": found}))
        return
    print(f"{result.trial['label']}, trained with T={result.trial['time_steps']}")
    for step, accuracy in found.items():
        print(f"T={step}: {accuracy:.2f} %")


@app.command("list", epilog="Example: harness list methods --method dsr")
def list_(
    kind: Kind,
    method: Annotated[str | None, typer.Option(help="Print the settings of this method.")] = None,
    json_: Json = False,
) -> None:
    """What there is, one line each."""
    from harness import listing

    with refused():
        rows = listing.settings(method) if method else listing.names(kind.value)
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        show(listing.shown(rows, title=f"settings of {method}" if method else kind.value))


@app.command(epilog="Example: harness check path/to/mine.py --network mlp")
def check(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name, dotted module name, or path of a .py file.")],
    network: Annotated[
        list[str] | None, typer.Option(help="Check on this network; by default on one of every architecture.")
    ] = None,
    quiet: Quiet = False, json_: Json = False,
) -> None:  # fmt: skip
    """Check that METHOD keeps the contract of training methods, on small networks."""
    from harness.conformance import run
    from harness.progress import counted

    with refused(), counted(f"checking {method}", quiet=quiet) as progress:
        found = list(run.results(method, network, progress))
    if json_:
        print(json.dumps([result.as_dict() for result in found], indent=1))
    else:
        print("\n".join([*map(run.shown, found), run.summary(method, found)]))
    if any(result.state == "failed" for result in found):
        raise typer.Exit(1)


@app.command(epilog="Example: harness validate configs/digits.yaml --set time_steps=[2,4]")
def validate(file: File, set_: Set = None, smoke: Smoke = False, json_: Json = False) -> None:
    """Check FILE, print it with every default filled in, and the plan."""
    from harness import listing

    experiment = _experiment(file, set_, smoke)
    trials = _planned(experiment, str(file))
    plan = listing.plan(experiment, trials)
    if json_:
        print(json.dumps({"experiment": experiment.model_dump(mode="json"), "plan": plan}, indent=1))
        return
    print(yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    show(listing.shown(plan["trials"], title=f"{len(trials)} trials, {plan['done']} of them measured"))


@app.command("schema")
def schema_() -> None:
    """JSON schema of experiment files, for editors: harness schema > experiment.schema.json"""
    print(json.dumps(schema(), indent=1))


@app.command()
def doctor(json_: Json = False) -> None:
    """What is installed and found on this machine, and what to do about what is missing."""
    from harness import doctor

    checks = doctor.checks()
    if json_:
        print(json.dumps([check.__dict__ for check in checks], indent=1))
    else:
        show(doctor.shown(checks))
    if any(check.state == "missing" for check in checks):
        raise typer.Exit(1)


def _experiment(file: Path, overrides: list[str] | None, short: bool, quiet: bool = False) -> Experiment:
    experiment = experiment_file.load(file, overrides)
    with refused(f"{file}: results: "):
        storage.check(experiment.results)
    if not short:
        return experiment
    from harness.data import stand_in

    with refused(f"{file}: dataset: "):
        experiment, _, sentence = stand_in.replaced(experiment)
    say(quiet, sentence or "")
    return smoke(experiment)


def _planned(experiment: Experiment, file: str) -> list:
    from harness import plan
    from harness.data import source

    with refused(f"{file}: dataset: "):
        info = source.of(experiment.dataset).info
    return plan.expand(experiment, info, file=file)


def _prepared(experiment: Experiment, file: str, quiet: bool) -> list:
    """The trials, once the data that they need is there."""
    from harness.data import source

    trials, block = _planned(experiment, file), experiment.dataset
    with refused(f"{file}: dataset: "):
        data_cli.prepared(source.of(block), quiet=quiet)
    return trials


def _read(file: Path, overrides: list[str] | None, prepare: bool) -> tuple[Experiment, list]:
    experiment = _experiment(file, overrides, short=False)
    return experiment, (_prepared(experiment, str(file), True) if prepare else _planned(experiment, str(file)))


def _integers(text: str) -> list[int]:
    try:
        steps = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--time-steps {text}: expected whole numbers separated by commas") from None
    if min(steps) < 1:
        raise ConfigError(f"--time-steps {text}: time steps count from 1")
    return steps


def _offered(trials: list) -> str:
    labels, steps, seeds = ({getattr(trial, key) for trial in trials} for key in ("label", "time_steps", "seed"))
    return f"methods {', '.join(sorted(labels))}; T {sorted(steps)}; seeds {sorted(seeds)}"
