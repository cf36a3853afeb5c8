"""Where MLflow is and how it is spoken to: quietly, without credentials in what is said, one at a time where needed."""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# MLflow's own defaults wait for minutes, report usage to its makers, and print URIs, credentials and all, to stdout.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class TrackingError(Exception):
    """MLflow could not be written to or read; the message holds no credentials."""


class Refused(ValueError):
    """MLflow was asked for something that cannot be."""


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, else the database that a plain `mlflow ui` in the current folder shows."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def public(text: str) -> str:
    """The text with user, password and query of every URI in it left out."""
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1?…", re.sub(r"://\S*@", "://…@", text))


def client(uri: str) -> Any:
    """MLflow's client for the URI; makes the database where there is none, so see `alone`."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # They announce every table that they make, and every attempt of the many that we make.
    for name, level in {"mlflow": logging.WARNING, "alembic": logging.WARNING, "urllib3": logging.ERROR}.items():
        logging.getLogger(name).setLevel(level)
    return MlflowClient(uri)


def database(uri: str) -> Path | None:
    """The file of a local database; None for a server."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Keep other processes out of a local database: two that make it at once break its tables, or make a run twice."""
    if (file := database(uri)) is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.with_name(f"{file.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def translated() -> Iterator[None]:
    """Whatever goes wrong within leaves as a TrackingError of one line, unless it is one or Refused."""
    try:
        yield
    except (TrackingError, Refused):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a server does must not cost a training run
        # Cut after the credentials are out, lest half of a password stay; and no cause, which would print them.
        raise TrackingError(sentence(error)) from None


def sentence(error: Exception) -> str:
    """What an exception says, in one line without credentials."""
    text = public(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:300]}"
