"""Overrides: a config with some of its fields replaced, by their paths."""

import contextlib
import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from bert_jax.config.bounds import convert_value, field_types
from bert_jax.config.stored import normalize
from bert_jax.errors import ConfigError

Config = TypeVar("Config")


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Returns the config with fields replaced; every check runs again.

    Args:
      config: a frozen dataclass of frozen dataclasses.
      overrides: from `path.to.field` to a value. A string is read as the type of its field. A
        value may be a whole sub-config. The path of an entry of a list is its number from 0, and
        that of an entry of a dictionary of fields is `path.to.dictionary.path.to.field`.

    Raises:
      ConfigError: unknown field, value of another type, or a combination the config refuses.
    """
    tree: dict[str, Any] = {}
    for path, value in leaves(overrides).items():
        _insert(tree, config, path, value)
    return normalize(_rebuild(config, tree))


def leaves(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns overrides field by field: a JSON object sets the fields it names and no others.

    Raises:
      ConfigError: a field is set twice, or a string that starts as a JSON object is not JSON.
    """
    found: dict[str, Any] = {}
    for path, value in overrides.items():
        for below, leaf in _leaves(path, value):
            if below in found:
                raise ConfigError(f"{below} is set twice; accepted: once")
            found[below] = leaf
    return found


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
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


def _insert(tree: dict[str, Any], root: Any, path: str, value: Any) -> None:
    (*parents, (config, leaf)) = _walk(root, path)
    walked = ""
    for _, name in parents:
        tree, walked = tree.setdefault(name, {}), f"{walked}{name}."
        if not isinstance(tree, dict):
            raise ConfigError(f"both {walked[:-1]} and {path} are set; accepted: one of them")
    if isinstance(tree.get(leaf), dict):
        below = next(iter(tree[leaf]))
        raise ConfigError(f"both {path} and {path}.{below} are set; accepted: one of them")
    name = leaf
    while isinstance(config, Mapping):
        config, name = _walk(root, name)[-1]
    entry = isinstance(config, tuple)
    hint = type(config[int(name)]) if entry else field_types(type(config))[name]
    tree[leaf] = _coerce(value, hint, path)


def _walk(root: Any, path: str) -> list[tuple[Any, str]]:
    """Returns each config along a path with the name that the path goes on with.

    A dictionary maps field paths of the root to values, so its name is the rest of the path.

    Raises:
      ConfigError: a name that its config does not have.
    """
    config, names, found = root, path.split("."), []
    while names:
        walked = "".join(f"{name}." for _, name in found)
        _check_name(config, names[0], path, walked)
        found.append((config, names.pop(0)))
        config = dict(_entries(config))[found[-1][1]]
        if isinstance(config, Mapping) and names:
            return [*found, (config, ".".join(names))]
    return found


def _entries(config: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(config):
        yield from ((name, getattr(config, name)) for name in field_types(type(config)))
    elif isinstance(config, tuple) and all(map(dataclasses.is_dataclass, config)):
        yield from ((str(number), entry) for number, entry in enumerate(config))


def _check_name(config: Any, name: str, path: str, walked: str) -> None:
    names = [name for name, _ in _entries(config)]
    if name in names:
        return
    if names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
        meant = ", ".join(walked + candidate for candidate in near)
        raise ConfigError(f"unknown field {path!r}; did you mean {meant}")
    if config == ():
        raise ConfigError(f"unknown field {path!r}: {walked[:-1]} is empty; accepted: a JSON list")
    raise ConfigError(f"unknown field {path!r}: nothing lies below a {type(config).__name__}")


def _coerce(value: Any, hint: Any, path: str) -> Any:
    if not isinstance(value, str) or hint is str:
        return convert_value(value, hint, path)
    with contextlib.suppress(ValueError):  # not JSON: a name of a Literal, an axis of the mesh
        value = json.loads(value)
    return convert_value(value, hint, path, strict=False)


def _rebuild(config: Any, tree: Mapping[str, Any]) -> Any:
    if isinstance(config, Mapping):
        return {**config, **tree}
    below = dict(_entries(config))
    changes = {
        name: _rebuild(below[name], value) if isinstance(value, dict) else value
        for name, value in tree.items()
    }
    if isinstance(config, tuple):
        return tuple((below | changes).values())
    return dataclasses.replace(config, **changes)
