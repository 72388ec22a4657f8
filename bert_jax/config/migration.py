"""Stored configs of earlier formats, brought to today's."""

import copy
from collections.abc import Mapping
from typing import Any

from bert_jax.errors import ConfigError

FORMAT_VERSION = 1

REMOVED_FIELDS: dict[str, Any] = {
    "training.layer_decay": 1.0,
    "training.patience": None,
    "training.reinitialize_layers": 0,
}
"""Path of each field that no longer exists, with the default that it had.

A config that holds the default computes the same without the field. Paths are those of
`Experiment` and of `FineTuningConfig`.
"""


def migrate(description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a stored config as today's classes have them, without its version.

    Raises:
      ConfigError: an unknown format version, or a removed field with another value than its
        default.
    """
    fields = copy.deepcopy(dict(description))
    version = fields.pop("format_version", None)
    if version not in (1, FORMAT_VERSION):
        raise ConfigError(f"config has format_version {version!r}; accepted: 1 to {FORMAT_VERSION}")
    for path, default in REMOVED_FIELDS.items():
        *parents, name = path.split(".")
        section: Any = fields
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            continue
        value = section.pop(name)
        if value != default:
            raise ConfigError(
                f"{path} is {value!r}, a field that was removed; accepted: {default!r}, which is "
                "what every config does now"
            )
    return fields
