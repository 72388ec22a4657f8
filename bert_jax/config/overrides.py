"""Replaces fields of a config. An override names a field by its path."""

import contextlib
import dataclasses
import functools
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from bert_jax.config.bounds import convert_value, field_types, nearest, similar
from bert_jax.config.stored import flatten, from_json, to_json, to_plain
from bert_jax.errors import ConfigError

Config = TypeVar("Config")


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Returns a copy of the config with fields replaced. All checks of the config run again.

    `overrides` maps `path.to.field` to a value. A string is converted to the type of its field. A
    value may be a whole sub-config. The path `phases.0.changes.data.batch_size` names entry 0 of
    the list `phases`, and in its dictionary `changes` the key `data.batch_size`.

    Raises:
      ConfigError: a field is unknown, a type is wrong, or the new values do not fit together.
    """
    content = json.loads(json.dumps(to_json(config)))  # lists in place of tuples
    found = leaves(overrides)
    for path, value in found.items():
        if below := next((other for other in found if other.startswith(f"{path}.")), None):
            raise ConfigError(f"both {path} and {below} are set; accepted: one of them")
        *parents, (parent, name) = _walk(config, path)
        section = functools.reduce(operator.getitem, (key for _, key in parents), content)
        hint = _field_type(config, parent, name)
        value = _coerce(value, hint, path)
        section[name] = to_plain(value, hint)
    return from_json(type(config), content)


def leaves(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the overrides with each JSON object split into overrides of single fields.

    Raises:
      ConfigError: a field is set twice, or a string that starts with `{` is not JSON.
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
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path} is {value!r:.60}, which is not JSON ({error}); accepted: a JSON object"
            ) from error
    if isinstance(value, Mapping):
        if not value:
            raise ConfigError(f"{path} is {{}}; accepted: a JSON object with a field to set")
        for name, below in value.items():
            yield from _leaves(f"{path}.{name}", below)
    else:
        yield path, value


def _field_type(root: Any, config: Any, name: Any) -> Any:
    while isinstance(config, Mapping):
        config, name = _walk(root, name)[-1]
    return type(config[name]) if isinstance(config, tuple) else field_types(type(config))[name]


def _walk(root: Any, path: str) -> list[tuple[Any, Any]]:
    """Returns a pair for each step along a path: the config, and the name or index to look up.

    In a dictionary, all remaining names are looked up as one key, such as `data.batch_size`.

    Raises:
      ConfigError: a config has no field of that name.
    """
    config, names, found = root, path.split("."), []
    for depth, name in enumerate(names):
        if isinstance(config, Mapping):
            return [*found, (config, ".".join(names[depth:]))]
        below = _entries(config)
        if name not in below:
            raise ConfigError(f"unknown field {path!r}{_hint(root, path, config, names[:depth])}")
        found.append((config, int(name) if isinstance(config, tuple) else name))
        config = below[name]
    return found


def _entries(config: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(config):
        return {name: getattr(config, name) for name in field_types(type(config))}
    if isinstance(config, tuple) and all(map(dataclasses.is_dataclass, config)):
        return {str(number): entry for number, entry in enumerate(config)}
    return {}


def _hint(root: Any, path: str, config: Any, walked: Sequence[str]) -> str:
    """Returns, in words, which fields were probably meant by an unknown `path` of `root`.

    `config` is the section at the path `walked`, which has no such field. The last name of the path
    is searched in this section, and then in all sections.
    """
    prefix, name = "".join(f"{one}." for one in walked), path.split(".")[len(walked)]
    known = _entries(config)
    if config == ():
        return f": {prefix[:-1]} is empty; accepted: a JSON list"
    if not known:
        return f": a value of type {type(config).__name__} has no fields; accepted: {prefix[:-1]}"
    if walked and similar(name, known, cutoff=0.5):
        return f"; {nearest(name, known, prefix=prefix)}"
    paths: dict[str, list[str]] = {}
    for one in flatten(root):
        paths.setdefault(one.rpartition(".")[2], []).append(one)
    near = similar(path.rpartition(".")[2], paths, cutoff=0.6)
    if near:
        return f"; did you mean {', '.join(one for leaf in near for one in paths[leaf])}"
    return f"; {nearest(name, known, prefix=prefix)}"


def _coerce(value: Any, hint: Any, path: str) -> Any:
    if not isinstance(value, str) or hint is str:
        return convert_value(value, hint, path)
    # A plain string, as a Literal accepts it, is not JSON.
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(value)
    return convert_value(value, hint, path, strict=False)
