"""The commands about jobs on a cluster: submit, status, stop. As in `cli.py`: parse, call, print; nothing else."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from harness import experiment_file, interrupt, job, job_table, parcel
from harness.command import File, Json, Quiet, Set, refused, say, show
from harness.config import Experiment
from harness.experiment_file import ConfigError

if TYPE_CHECKING:  # imports Ray
    from harness.jobs import Cluster

app = typer.Typer()

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The cluster's dashboard; by default RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.",
    ),
]
Name = Annotated[str, typer.Argument(metavar="JOB", help="The job, as `harness submit` and `harness status` name it.")]
TAIL_LINES = 10


@app.command(epilog="Example: harness submit configs/digits.yaml --set results=/shared/results")
def submit(
    file: File,
    address: Address = None,
    set_: Set = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="As in a sweep: a minute's trial of the same path.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the job until it ends.")] = True,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Forward this variable, sealed with the cluster's token; nothing else is."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="PATTERN", help="Leave these files out too.")] = None,
    entrypoint_python: Annotated[
        str, typer.Option(metavar="PATH", help="Python on the cluster's head that has the packages.")
    ] = "python",
    quiet: Quiet = False,
) -> None:
    """Run `harness sweep FILE` as a job on a Ray cluster: ship this checkout, follow the log, pass on the exit code.

    The job goes on when the connection is lost or you press Ctrl-C; its status is also written beside the results.
    """
    from harness import jobs

    job.hides_nothing(set_)
    experiment = experiment_file.load(file, set_)
    trials = None if smoke else _count(experiment, file)
    forwarded = _forwarded(env or [])
    with refused():
        shipment = parcel.gather(file, exclude or [])
    with _answered(), tempfile.TemporaryDirectory(prefix="harness-job-") as folder:
        cluster = jobs.Cluster(_address(address))
        archive = Path(folder, "harness.zip")
        size = parcel.pack(shipment, archive)
        say(quiet, f"ships {decimal(size)} to {cluster.address}: {shipment.described()}")
        arguments = ["sweep", shipment.experiment, *(part for each in set_ or [] for part in ("--set", each))]
        arguments += [*(["--smoke"] if smoke else []), *(["--quiet"] if quiet else [])]
        known = {"experiment": experiment.name, "file": shipment.experiment, "commit": shipment.note.commit or ""}
        known |= {"trials": str(trials)} if trials else {}
        known |= {"results": place} if (place := _known(experiment, smoke)) else {}
        name = cluster.submit(arguments, archive, known, python=entrypoint_python, forwarded=forwarded)
        if not wait:
            print(name)
            say(quiet, f"follow it: {_command('status', cluster, name)} --follow")
            return
        say(quiet, f"job {name}; Ctrl-C leaves it running")
        raise typer.Exit(_followed(cluster, name, quiet))


@app.command(epilog="Examples: harness status · harness status JOB --follow · harness status --results /shared/results")
def status(
    name: Annotated[str | None, typer.Argument(metavar="JOB", help="One job; by default a table of all.")] = None,
    address: Address = None,
    results: Annotated[
        str | None,
        typer.Option(metavar="PLACE", help="Read what jobs wrote below this results folder, without their cluster."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow JOB's log, and exit as JOB does.")] = False,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Jobs of a cluster, or one of them: state, exit code, trials done of all, the end of its log."""
    from harness import jobs

    if follow and (name is None or results is not None):
        raise ConfigError("--follow: follows one JOB of a cluster, so it needs JOB and takes no --results")
    if results is not None:
        if address is not None:
            raise ConfigError("--results: read without a cluster, so it takes no --address")
        _show([job_table.of_file(each) for each in _kept(results, name)], json_)
        return
    with _answered():
        cluster = jobs.Cluster(_address(address))
        if follow:
            assert name is not None
            raise typer.Exit(_followed(cluster, name, quiet))
        if name is None:
            _show([job_table.of_job(each) for each in cluster.jobs()], json_)
            return
        found, log = cluster.job(name), cluster.log(name)
        row = job_table.of_job(found, log) | {"log": log.splitlines()[-TAIL_LINES:]}
    if json_:
        print(json.dumps(row, indent=1))
    else:
        print("\n".join(f"{key}: {value}" for key, value in row.items() if key != "log" and value is not None))
        print("\n".join(["log:", *(f"  {line}" for line in row["log"])]))


@app.command(epilog="Example: harness stop harness-20260102-030405-abcdef")
def stop(name: Name, address: Address = None, quiet: Quiet = False) -> None:
    """Ask JOB to stop, give its trials time to save themselves, and wait until it is over.

    Exit code 0 when it has stopped and saved; 1 when it had to be killed or had ended before.
    """
    from harness import jobs

    with _answered():
        cluster = jobs.Cluster(_address(address))
        if (before := cluster.job(name)).is_over:
            print(f"{name}: had {before.state} before", file=sys.stderr)
            raise typer.Exit(1)
        say(quiet, f"{name}: asked to stop; its trials have {jobs.GRACE_SECONDS} s to save themselves")
        cluster.stop(name)
        with interrupt.raised():
            found = cluster.wait(name)
        log = cluster.log(name)
    told = found.status()
    saved = found.state != "stopped" or (told.exit_code == 143 if told else "what was done is saved" in log)
    say(quiet, f"{name}: {found.state}" + (f"; {SAVED}" if saved else "; killed before it could save itself"))
    raise typer.Exit(0 if saved else 1)


SAVED = "what was done is saved, and the same submission goes on from there"


def _followed(cluster: "Cluster", name: str, quiet: bool) -> int:
    """Show a job's log until it is over and return its exit code; a signal here leaves it running."""
    from harness import jobs

    def write(text: str) -> None:
        print(text, end="", flush=True)

    try:
        with interrupt.raised():
            found = cluster.follow(name, write, lambda text: say(quiet, f"harness: {text}"))
    except (interrupt.Interrupted, jobs.Lost) as error:
        why = "left running" if isinstance(error, interrupt.Interrupted) else f"{error}, but may well go on"
        print(
            f"harness: {name} is {why}. Follow it again: {_command('status', cluster, name)} --follow; "
            f"stop it: {_command('stop', cluster, name)}",
            file=sys.stderr,
        )
        return error.exit_code if isinstance(error, interrupt.Interrupted) else 1
    code = jobs.exit_code(found, found.status())
    if code == 1 and "ModuleNotFoundError" in found.message:
        say(False, f"harness: the Python that ran {name} lacks a package; --entrypoint-python names another")
    say(quiet, f"job {name}: {found.state}, exit code {code}")
    if found.exit_code is None and found.state == "failed":
        say(False, f"harness: {name}: {' '.join(found.message.split())[:500]}")
    return code


def _command(verb: str, cluster: "Cluster", name: str) -> str:
    return f"harness {verb} {name} --address {cluster.address}"


@contextmanager
def _answered() -> Iterator[None]:
    """A cluster that does not answer, or says no, becomes one line and exit code 1."""
    from harness import jobs

    try:
        yield
    except (jobs.Lost, jobs.Refused) as error:
        print(f"harness: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def _address(given: str | None) -> str:
    from harness import jobs

    ray = os.environ.get("RAY_ADDRESS", "")
    return (
        given
        or os.environ.get("RAY_API_SERVER_ADDRESS")
        or (ray if ray.startswith(("http://", "https://")) else jobs.DEFAULT_ADDRESS)
    )


def _forwarded(names: list[str]) -> dict[str, str]:
    if missing := [name for name in names if name not in os.environ]:
        raise ConfigError(f"--env {missing[0]}: not set here (give the name of a variable, its value is taken)")
    return {name: os.environ[name] for name in names}


def _count(experiment: Experiment, file: Path) -> int | None:
    """How many trials there are, if this machine knows the dataset's shape; raises ConfigError for a wrong file."""
    from harness import plan
    from harness.data import source

    try:
        with refused(f"{file}: dataset: "):
            info = source.of(experiment.dataset).info
    except ConfigError as error:
        # Images of one's own may lie on the cluster alone.
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    return len(plan.expand(experiment, info, file=str(file)))


def _known(experiment: Experiment, smoke: bool) -> str | None:
    """Where the results will stand, if that does not depend on the nodes."""
    from harness import storage
    from harness.config import smoke as cut

    place = (cut(experiment) if smoke else experiment).results
    return place if storage.is_remote(place) or Path(place).is_absolute() else None


def _kept(results: str, name: str | None) -> list[job.Status]:
    with refused():
        found = job.find(results, name)
    if name and not found:
        raise ConfigError(f"{name}: no status of such a job below {results}")
    return found


def _show(rows: list[dict[str, Any]], json_: bool) -> None:
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        show(job_table.shown(rows))
