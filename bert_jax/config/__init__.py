"""Configs are values: load an experiment file, override fields, compare, store, hash.

Generic over the root type: nothing here knows what an experiment consists of.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib.util
import json
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bert_jax.config.bounds import PositiveFloat as PositiveFloat
from bert_jax.config.bounds import PositiveInt as PositiveInt
from bert_jax.config.bounds import Share as Share
from bert_jax.config.bounds import check_bounds as check_bounds
from bert_jax.config.bounds import convert_value, field_types, nearest
from bert_jax.config.migration import FORMAT_VERSION, migrate
from bert_jax.errors import ConfigError

Config = TypeVar("Config")


def load_experiment(spec: str | Path) -> Any:
    """Returns what `get_config` of an experiment file returns.

    Args:
      spec: `FILE` or `FILE:VARIANT`; the file may lie anywhere.

    Raises:
      ConfigError: no such file or variant, or the file itself fails.
    """
    file, variant = _split_spec(str(spec))
    get_config = getattr(_import_file(file), "get_config", None)
    if not callable(get_config):
        raise ConfigError(f"{file} defines no get_config(); see experiments/quickstart.py")
    with _errors_of(file):
        variants = typing.get_args(typing.get_type_hints(get_config).get("variant"))
    if variant and not variants:
        raise ConfigError(f"{file} has no variants, got {variant!r}; accepted: {file}")
    if variant and variant not in variants:
        raise ConfigError(f"{file} has no variant {variant!r}; {nearest(variant, variants)}")
    with _errors_of(file):
        config = get_config(variant) if variant else get_config()
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"{file}: get_config() returns {config!r}; accepted: an Experiment")
    return normalize(config)


def load_module(spec: str | Path) -> Any:
    """Returns the module of an experiment file, `FILE` or `FILE:VARIANT`.

    Raises:
      ConfigError: no such file, or the file itself fails.
    """
    return _import_file(_split_spec(str(spec))[0])


def _split_spec(spec: str) -> tuple[Path, str]:
    path = Path(spec)
    if path.is_file():
        return path, ""
    head, colon, variant = spec.rpartition(":")
    path = Path(head if colon else spec)
    if not path.is_file():
        known = sorted(str(file) for file in path.parent.glob("*.py"))
        raise ConfigError(f"no experiment file {str(path)!r}; {nearest(str(path), known)}")
    return path, variant


def _import_file(file: Path) -> Any:
    module_spec = importlib.util.spec_from_file_location(f"experiment_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{file} is not a Python file; accepted: FILE.py or FILE.py:VARIANT")
    module = importlib.util.module_from_spec(module_spec)
    # Files beside this one can be imported by name, as with `python FILE`.
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        with _errors_of(file):
            module_spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


@contextlib.contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    """Turns what goes wrong in an experiment file into one line with its place."""
    try:
        yield
    except ConfigError:
        raise
    except SyntaxError as error:
        raise ConfigError(f"{file}:{error.lineno}: SyntaxError: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if Path(f.filename).resolve() == file.resolve()]
        place = f"{file}:{lines[-1]}" if lines else str(file)
        raise ConfigError(f"{place}: {type(error).__name__}: {error}") from error


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Returns the config with fields replaced, so that every check runs again.

    Args:
      config: a frozen dataclass of frozen dataclasses.
      overrides: from `path.to.field` to a value; strings are read as the field's type. Values
        may be whole sub-configs.

    Raises:
      ConfigError: unknown field, value of another type, or a combination the config refuses.
    """
    tree: dict[str, Any] = {}
    for path, value in overrides.items():
        for below, one in _leaves(path, value):
            _insert(tree, config, below, one)
    return normalize(_rebuild(config, tree))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A JSON object sets the fields it names and leaves the others of its sub-config alone."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"{path} is {value!r}, which is not JSON: {error}") from error
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _leaves(f"{path}.{name}", below)
    else:
        yield path, value


def _insert(tree: dict[str, Any], config: Any, path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    walked = ""
    for name in parents:
        _check_field(config, name, path, walked)
        config, walked = getattr(config, name), f"{walked}{name}."
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"both {walked[:-1]} and {path} are set; accepted: one of them")
    _check_field(config, leaf, path, walked)
    if isinstance(tree.get(leaf), dict):
        below = next(iter(tree[leaf]))
        raise ConfigError(f"both {path} and {path}.{below} are set; accepted: one of them")
    tree[leaf] = _coerce(value, field_types(type(config))[leaf], path)


def _check_field(config: Any, name: str, path: str, walked: str) -> None:
    if not dataclasses.is_dataclass(config):
        raise ConfigError(f"unknown field {path!r}: nothing lies below a {type(config).__name__}")
    names = [field.name for field in dataclasses.fields(config)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
        meant = ", ".join(walked + candidate for candidate in near)
        raise ConfigError(f"unknown field {path!r}; did you mean {meant}")


def _coerce(value: Any, hint: Any, path: str) -> Any:
    if not isinstance(value, str) or hint is str:
        return convert_value(value, hint, path)
    with contextlib.suppress(ValueError):  # not JSON: a name of a Literal, an axis of the mesh
        value = json.loads(value)
    return convert_value(value, hint, path, strict=False)


def _rebuild(config: Any, tree: Mapping[str, Any]) -> Any:
    changes = {
        name: _rebuild(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in tree.items()
    }
    return dataclasses.replace(config, **changes)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns every leaf of a config by its path."""
    leaves: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        leaves |= flatten(value, path + ".") if dataclasses.is_dataclass(value) else {path: value}
    return leaves


def diff(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the fields in which two configs of one type differ, with both values."""
    left, right = flatten(first), flatten(second)
    return {path: (left[path], right[path]) for path in left if left[path] != right[path]}


def to_json(config: Any) -> dict[str, Any]:
    """Returns a config as plain JSON values, with `format_version`."""
    return {"format_version": FORMAT_VERSION} | msgspec.to_builtins(config)


def normalize(config: Config) -> Config:
    """Returns the config as it comes back from JSON: tuples for lists, floats where declared.

    Equal configs are then equal in their JSON and their hash.

    Raises:
      ConfigError: a value of another type than its field's.
    """
    return from_json(type(config), to_json(config))


def from_json(root: type[Config], description: Mapping[str, Any]) -> Config:
    """Rebuilds a config from `to_json`; unknown and mistyped fields are errors.

    A field that is missing gets its default, so a new field's default must be what was done
    before it was there.
    """
    return convert_value(migrate(description), root, "")


def config_hash(config: Any) -> str:
    """Returns 12 hexadecimal digits that name the resolved config."""
    canonical = json.dumps(to_json(normalize(config)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
