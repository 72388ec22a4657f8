"""Converts configs to JSON and back, and to a flat dict of fields; compares and hashes configs."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from bert_jax.config import parts
from bert_jax.config.bounds import convert_value, field_types
from bert_jax.config.migration import FORMAT_VERSION, migrate
from bert_jax.errors import ConfigError

Config = TypeVar("Config")


def flatten(config: Any, prefix: str = "", *, classes: bool = False) -> dict[str, Any]:
    """Returns the value of each field by its path, such as {"model.num_layers": 12, ...}.

    The entry `model.class` has the name of a section's class. Without `classes`, there is none for
    a class that is the type of its field.
    """
    leaves: dict[str, Any] = {}
    for name, hint in field_types(type(config)).items():
        value, path = getattr(config, name), prefix + name
        if dataclasses.is_dataclass(value):
            kind = parts.class_name(type(value), hint)
            if kind or classes:
                leaves[f"{path}.{parts.CLASS}"] = parts.short(kind or type(value).__name__)
            leaves |= flatten(value, f"{path}.", classes=classes)
        elif typing.get_origin(hint) is tuple and dataclasses.is_dataclass(hint.__args__[0]):
            for number, entry in enumerate(value):
                leaves |= flatten(entry, f"{path}.{number}.", classes=classes)
        elif isinstance(value, Mapping):
            leaves |= {f"{path}.{key}": entry for key, entry in value.items()}
        else:
            leaves[path] = value
    return leaves


def diff(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """Returns the fields in which two configs of one type differ, with both values.

    If only one config has a field, such as a field of an additional phase, the other value is None.
    """
    left, right = flatten(first), flatten(second)
    pairs = {path: (left.get(path), right.get(path)) for path in left | right}
    return {path: (before, now) for path, (before, now) in pairs.items() if before != now}


def to_json(config: Any, root: type | None = None) -> dict[str, Any]:
    """Returns a config as plain JSON values, with `format_version`.

    `root` is the class with which `from_json` will read it, by default the config's own.
    """
    return {"format_version": FORMAT_VERSION} | to_plain(config, root or type(config))


def to_plain(value: Any, hint: Any) -> Any:
    """Returns the value of a field as plain JSON values. `hint` is the type of the field.

    A config of another class than `hint` has the key `class` (`parts`).
    """
    if dataclasses.is_dataclass(value):
        kind = parts.class_name(type(value), hint)
        fields = {
            name: to_plain(getattr(value, name), below)
            for name, below in field_types(type(value)).items()
        }
        return ({parts.CLASS: kind} if kind else {}) | fields
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        return tuple(to_plain(entry, type(entry)) for entry in value)
    return msgspec.to_builtins(value)


def from_json(root: type[Config], description: Mapping[str, Any]) -> Config:
    """Rebuilds a config from the output of `to_json`, in the current or an earlier format.

    A missing field gets its default. The default of a new field must therefore describe what
    happened before the field existed.

    Raises:
      ConfigError: a field is unknown, or a value has the wrong type or is out of bounds.
    """
    accepted = f"a JSON object with the fields of {root.__name__}"
    if not isinstance(description, Mapping):
        raise ConfigError(f"the config is {description!r:.60}; accepted: {accepted}")
    try:
        return convert_value(migrate(description, field_types(root)), root, "")
    except RecursionError as error:
        raise ConfigError(f"the config is nested too deeply; accepted: {accepted}") from error


def normalize(config: Config) -> Config:
    """Converts each value to the type of its field: lists to tuples, and integers to floats.

    Normalized configs that are equal have equal JSON and equal hashes.

    Raises:
      ConfigError: a value cannot have the type of its field.
    """
    return from_json(type(config), to_json(config))


def config_hash(config: Any) -> str:
    """Returns 12 hexadecimal digits that name a config.

    The hash covers the format version and the fields that differ from their defaults, so a new
    field with a default changes no hash. After a change of a default, a config could have the hash
    of a different, older config. The format version must therefore change if a default changes.
    """
    content = {"format_version": FORMAT_VERSION} | changed_fields(normalize(config))
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def changed_fields(config: Any, defaults: Any = None) -> dict[str, Any]:
    """Returns, as JSON, the fields that differ from `defaults` (None: those of the config's class).

    A sub-config is compared with the default that its field has in the parent's class.
    """
    content: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), dataclasses.MISSING
        if defaults is not None:
            default = getattr(defaults, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        if value == default:
            continue
        if dataclasses.is_dataclass(value):
            same_type = type(value) is type(default)
            content[field.name] = changed_fields(value, default if same_type else None)
            if kind := parts.class_name(type(value), field_types(type(config))[field.name]):
                content[field.name][parts.CLASS] = kind
        elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
            content[field.name] = [changed_fields(entry) for entry in value]
        else:
            content[field.name] = msgspec.to_builtins(value)
    return content
