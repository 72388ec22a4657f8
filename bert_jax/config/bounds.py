"""Checks config fields whenever a config is made. The type of a field includes its bounds:

    batch_size: Annotated[int, Meta(ge=1)] = 256

Dataclasses do not check types. msgspec checks types when it reads JSON, but its messages omit the
value. The messages of these functions name the field, its value and what is accepted.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import msgspec

from bert_jax.config import parts
from bert_jax.errors import ConfigError

PositiveInt = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
"""The largest value is the largest int32, with which jax counts."""

PositiveFloat = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


def check_bounds(config: Any, section: str = "") -> None:
    """Checks every field of a config against its type and bounds; each `__post_init__` calls it.

    `section` is the name of the config in its parent, such as `data`; empty if it has no parent.

    Raises:
      ConfigError: a field is wrong. The message names the field, its value and what is accepted.
    """
    for name, hint in field_types(type(config)).items():
        value, path = getattr(config, name), _join(section, name)
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            raise ConfigError(f"{path} is {value!r:.60}; accepted: {accepted(hint)}")
        convert_value(value, hint, path)


def convert_value(value: Any, hint: Any, path: str, *, strict: bool = True) -> Any:
    """Converts a value of plain JSON types, or one that already has the type, to a field's type.

    `hint` is the type with its bounds. `path` names the field in messages; it is empty for a whole
    config. If `strict` is False, a string is converted where the type is a number. A config may be
    of a subclass of its type; a JSON object then names it (`parts`).

    Raises:
      ConfigError: a name is unknown, a type is wrong, or a number is out of bounds or not finite.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if isinstance(value, Mapping):
            return _convert_object(value, hint, path)
    (item, *_) = typing.get_args(hint) or (None,)
    if typing.get_origin(hint) is tuple and dataclasses.is_dataclass(item):
        if isinstance(value, list | tuple):
            entries = enumerate(value)
            return tuple(convert_value(below, item, _join(path, str(n))) for n, below in entries)
    try:
        converted = msgspec.convert(value, hint, strict=strict)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # a lone surrogate
        raise ConfigError(f"{path} is {value!r:.200}; accepted: {accepted(hint, value)}") from error
    if not all(math.isfinite(number) for number in _floats(converted)):
        raise ConfigError(f"{path} is {value!r:.200}; accepted: finite numbers")
    return converted


def _convert_object(value: Mapping[str, Any], hint: type, path: str) -> Any:
    """Converts a JSON object to a config of the class that it names, by default `hint`."""
    fields = dict(value)
    if (name := fields.pop(parts.CLASS, None)) is not None:
        hint = parts.find_class(name, hint, _join(path, parts.CLASS))
    known = field_types(hint)
    for name in fields:
        if name not in known:
            words = nearest(name, known, prefix=_join(path, ""))
            raise ConfigError(f"unknown field {_join(path, name)!r}; {words}")
    converted = {
        name: convert_value(below, known[name], _join(path, name)) for name, below in fields.items()
    }
    for field in dataclasses.fields(hint):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in fields:
            words = accepted(known[field.name])
            raise ConfigError(f"{_join(path, field.name)} is missing; accepted: {words}")
    return hint(**converted)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


@functools.cache
def field_types(config: type) -> dict[str, Any]:
    """Returns the type of each field of a dataclass, with its bounds."""
    hints = typing.get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}


def accepted(hint: Any, value: Any = None) -> str:
    """Returns, in words, the values that a type accepts; `value` is the refused value."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        kind, bounds = arguments[0], _bounds(arguments[1])
        number = type(value) in (int, kind)  # NumPy's numbers are subclasses
        return bounds if number else f"{kind.__name__}, {bounds}"
    if origin is typing.Literal:
        return ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        words = [accepted(one, value) for one in arguments if one is not types.NoneType]
        return " or ".join(words + ["null"] * (types.NoneType in arguments))
    if origin is tuple:
        if arguments[1:] == (...,):
            example = ', such as ["a", "b"]' if arguments[0] is str else ""
            return f"a list of {accepted(arguments[0])}{example}"
        return f"[{', '.join(map(accepted, arguments))}]"
    if origin is dict:
        return "a JSON object"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def nearest(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """Returns, in words, the names that were probably meant, or all names if none is similar.

    `prefix` is written before each name.
    """
    names = list(names)
    near = similar(name, names, cutoff=0.5)
    words = ", ".join(prefix + one for one in near or names)
    if near or not names:
        return f"did you mean {words}" if near else "there is none"
    return f"accepted: {words}"


def similar(name: str, names: Iterable[str], *, cutoff: float) -> list[str]:
    """Returns the name itself, or those with its letters as initials, or up to 3 similar names.

    `cutoff` is the least similarity by difflib, from 0 to 1. `lr` are the initials of
    `learning_rate`.
    """
    names = list(names)
    initials = [one for one in names if "".join(word[:1] for word in one.split("_")) == name]
    exact = [name] if name in names else initials
    return exact or difflib.get_close_matches(name, names, n=3, cutoff=cutoff)


def _bounds(meta: msgspec.Meta) -> str:
    if meta.ge is not None and meta.le is not None:
        return f"{meta.ge} to {meta.le}"
    words = (("above", meta.gt), ("at least", meta.ge), ("below", meta.lt), ("at most", meta.le))
    return ", ".join(f"{word} {bound}" for word, bound in words if bound is not None)


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _floats(item)
