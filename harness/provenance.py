"""Where a result came from: machine, package versions, commit."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import harness

PACKAGES = ("torch", "ray", "mlflow", "ffcv", "numpy", "torchvision", "tonic", "pydantic")

NOTE = ".shipped.json"
"""Beside the package in a job's folder: what `.git` would say if it travelled."""


class Shipped(NamedTuple):
    """The content of the note that travels with a job."""

    commit: str | None
    dirty: bool | None


@cache
def machine() -> dict[str, Any]:
    """CPU, cores, memory and accelerators of this machine; no name and no address."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


@cache
def versions() -> dict[str, str]:
    """Versions of Python, of the harness and of the packages that results depend on, as far as installed."""
    found = {"python": platform.python_version(), "harness": harness.__version__}
    return found | {name: number for name in PACKAGES if (number := installed(name))}


def installed(package: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def commit() -> tuple[str | None, bool | None]:
    """The commit that the harness runs from and whether tracked files differ from it; None outside a checkout.

    In a job it is the commit of the checkout that was shipped.
    """
    head = _git("rev-parse", "HEAD")
    if head is None:
        return _shipped()
    # Results are written into the checkout while it runs, and they are no code.
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
    return head, bool(changed)


def command() -> str:
    """The command line of this process as records and logs may show it: without a password in a URL."""
    return re.sub(r"://[^/@\s]*@", "://***@", shlex.join(["harness", *sys.argv[1:]]))


def _shipped() -> Shipped:
    try:
        note = json.loads((Path(harness.__file__).parent.parent / NOTE).read_text())
        return Shipped(note["commit"], note["dirty"])
    except (OSError, ValueError, KeyError):
        return Shipped(None, None)


def _git(*arguments: str) -> str | None:
    folder = Path(harness.__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
