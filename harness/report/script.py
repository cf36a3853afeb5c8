"""Data as scripts: a page that is opened from a file may load scripts, and nothing else."""

import json
from collections.abc import Mapping
from typing import Any

from harness.report.gather import readable


def call(kind: str, texts: Mapping[str, str]) -> str:
    """A script that hands the page so many values of one kind, given as JSON, by name.

    What they hold ends neither the script nor the text of a line: `<` and what JavaScript takes for a line's end are
    escaped.
    """
    lines = ",\n".join(f"{dump(name)}:{_safe(texts[name])}" for name in sorted(texts))
    return f"harnessReport({dump(kind)},{{\n{lines}\n}});\n"


def dump(value: Any) -> str:
    """JSON in ASCII, that may stand in a script."""
    return _safe(json.dumps(readable(value), separators=(",", ":"), allow_nan=False))


def _safe(text: str) -> str:
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def chunk(name: str) -> str:
    """Two hexadecimal digits that say which file holds the value of this name; the page reckons the same."""
    start = name[:2]
    return start if len(start) == 2 and all(letter in "0123456789abcdef" for letter in start) else "00"
