"""Reads the experiment file; every mistake becomes one line that names the file, the key and what would be right."""

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from harness.config import Experiment

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """The request was wrong: one line for the user, exit code 2."""


class _Loader(yaml.SafeLoader):
    """Safe YAML where `1e-3` is a number, as in YAML 1.2, and a key given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen: set = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse(text: str) -> Any:
    """YAML text as plain Python values."""
    return yaml.load(text, Loader=_Loader)


def load(file: Path, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment file and apply `key.path=value` overrides.

    Raises ConfigError: one line with the file, the key, what was found and what is allowed.
    """
    try:
        content = parse(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: expected keys such as 'name', 'dataset', 'methods'; found {type(content).__name__}")
    for override in overrides or []:
        apply_override(content, override)
    return checked(Experiment, content, str(file))


def checked(model: type[Model], content: Any, where: str) -> Model:
    """`content` as a model; raises ConfigError with the first complaint, its key path below `where`."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe(error, model)}") from error


def apply_override(content: dict, override: str) -> None:
    """Set one `key.path=value` in place; the value is YAML. A list is entered by position or by its entries' name."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: expected key.path=value")
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path}: not valid YAML: {text}") from error
    *parents, last = path.split(".")
    target: Any = content
    for key in parents:
        target = _enter(target, key, path)
    if isinstance(target, list):
        target[_position(target, last, path)] = value
    else:
        target[last] = value


def _enter(target: Any, key: str, path: str) -> Any:
    """The block below `key`, made where it is missing; a name standing for a block becomes the block."""
    position: Any = _position(target, key, path) if isinstance(target, list) else key
    if isinstance(target, dict):
        target.setdefault(key, {})
    below = target[position]
    if isinstance(below, str) and (isinstance(target, list) or key in {"dataset", "network", "start"}):
        below = target[position] = {"method" if key == "start" else "name": below}
    if not isinstance(below, dict | list):
        raise ConfigError(f"--set {path}: '{key}' is {below!r}, not a block of keys")
    return below


def _position(entries: list, key: str, path: str) -> int:
    if key.isdigit() and int(key) < len(entries):
        return int(key)
    labels = [entry.get("label") or entry.get("name") if isinstance(entry, dict) else entry for entry in entries]
    if key in labels:
        return labels.index(key)
    raise ConfigError(f"--set {path}: no entry '{key}' (there are: {', '.join(map(str, labels))})")


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of a model's complaints in one line: key path, what was found, what is allowed."""
    first, *others = error.errors(include_url=False)
    path = [part for part in first["loc"] if not _internal(part)]
    match first["type"]:
        case "extra_forbidden":
            text = _unknown_key(str(path[-1]), _block_at(model, path[:-1]))
        case "missing":
            text = "missing; it has to be given"
        case "value_error":
            text = str(first["ctx"]["error"])
        case _:
            text = f"found {_shown(first['input'])}; {first['msg'][0].lower()}{first['msg'][1:]}"
    more = f" (and {len(others)} more)" if others else ""
    return f"{_dotted(path)}{text}{more}"


def _internal(part: Any) -> bool:
    """Pydantic's own names for the members of a union (`function-before[…]`, `float`), which no user wrote."""
    return isinstance(part, str) and (
        "[" in part or part in {"float", "int", "str", "literal", "Range", "constrained-int"}
    )


def _dotted(path: list) -> str:
    return ".".join(map(str, path)) + ": " if path else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unknown_key(key: str, block: type[BaseModel] | None) -> str:
    allowed = sorted(block.model_fields) if block else []
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.6)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown key{hint} (allowed: {', '.join(allowed)})"


def _block_at(model: type[BaseModel] | None, path: list) -> type[BaseModel] | None:
    """The model that stands at a key path, looking through lists, unions and annotations."""
    for key in path:
        if isinstance(key, int):
            continue
        field = model.model_fields.get(key) if model else None
        model = _model_in(field.annotation) if field else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
