"""Converts stored configs of earlier formats to the current format."""

import copy
from collections.abc import Collection, Mapping
from typing import Any

from bert_jax.config.bounds import nearest
from bert_jax.errors import ConfigError

FORMAT_VERSION = 4
"""Version of the format of stored configs. Up to version 3, `model.scan_layers` was not null, and
the gradients of kernels had the dtype of the model. In versions 1 and 2, dropout used threefry
bits. In version 1, a run had at most two phases; `second_phase` described the second."""

REMOVED_FIELDS: dict[str, Any] = {
    "training.layer_decay": 1.0,
    "training.patience": None,
    "training.reinitialize_layers": 0,
}
"""Path of each field that no longer exists, with the default that it had.

A stored config may still have the default; `migrate` then deletes the field. Another value is an
error. The paths are those of `Experiment` and `FineTuningConfig`.
"""

EARLIER_DEFAULTS: dict[str, Any] = {
    "model.dropout_bits": "threefry",
    "training.gradient_dtype": "bfloat16",  # only of runs with model.dtype=bfloat16
}
"""The earlier default of each field whose default has changed, by the field's path.

A stored config gets this default if its format did not have the field. A run or a sweep that began
with this default keeps the default when it continues.
"""


def migrate(description: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Returns the fields of a stored config in the current format, without `format_version`.

    `names` are the names of the fields of the config's class.

    Raises:
      ConfigError: the format version is unknown, or a removed field does not have its default.
    """
    fields = copy.deepcopy(dict(description))
    version = fields.pop("format_version", None)
    if version not in range(1, FORMAT_VERSION + 1):
        raise ConfigError(f"config has format_version {version!r}; accepted: 1 to {FORMAT_VERSION}")
    for path, default in REMOVED_FIELDS.items():
        parent, _, name = path.rpartition(".")
        section = value_at(fields, parent) if parent else fields
        if not isinstance(section, dict) or name not in section:
            continue
        value = section.pop(name)
        if value != default:
            raise ConfigError(
                f"{path} is {value!r}, but this field was removed; accepted: {default!r}, which "
                "now holds for every config"
            )
    if version == 1:
        _migrate_second_phase(fields)
    # The weights of another implementation, and of a fine-tuning, have the config of a model alone.
    model = fields if "dropout_bits" in names else fields.get("model")
    if version < 3 and isinstance(model, dict):
        model["dropout_bits"] = EARLIER_DEFAULTS["model.dropout_bits"]
    halved = "objective" in names and value_at(fields, "model.dtype") == "bfloat16"
    if version < 4 and halved and isinstance(fields.get("training"), dict):
        fields["training"]["gradient_dtype"] = EARLIER_DEFAULTS["training.gradient_dtype"]
    if version < 4 and isinstance(model, dict) and "scan_layers" in model:
        # The experiments had the value that is chosen for null on an accelerator, or the default,
        # false. The results do not depend on it.
        if not model["scan_layers"] or model.get("num_layers", 12) not in range(12):
            del model["scan_layers"]
    return fields


SECOND_PHASE = {
    "steps": 0,
    "directory": "",
    "sequence_length": 512,
    "batch_size": 256,
    "pairs_per_row": None,
    "max_predictions": 77,
    "microbatches": 1,
    "learning_rate": None,
    "warmup_steps": 0,
    "moments": "kept",
}
"""Defaults of `second_phase` in format 1. With 0 steps there was no second phase."""


def _migrate_second_phase(fields: dict[str, Any]) -> None:
    """Replaces the section `second_phase` of format 1 by an entry in `phases`."""
    given = fields.pop("second_phase", {})
    if not isinstance(given, dict):
        raise ConfigError(f"second_phase is {given!r:.60}; accepted: a JSON object")
    for name in given:
        if name not in SECOND_PHASE:
            raise ConfigError(f"unknown field 'second_phase.{name}'; {nearest(name, SECOND_PHASE)}")
    second = SECOND_PHASE | given
    if not second["steps"]:
        return
    directory, length = second["directory"], second["sequence_length"]
    if not directory and value_at(fields, "data.sequence_length") == length:
        directory = f"{value_at(fields, 'data.directory')}-{length}"
    changes = {
        "data.directory": directory or None,
        "data.sequence_length": length,
        "data.batch_size": second["batch_size"],
        "data.pairs_per_row": second["pairs_per_row"],
        "data.masking.max_predictions": second["max_predictions"],
        "data.evaluation_masking.max_predictions": second["max_predictions"],
        "training.microbatches": second["microbatches"],
        "optimizer.learning_rate": second["learning_rate"],
    }
    own_schedule = second["learning_rate"] is not None
    if own_schedule:
        changes["optimizer.warmup_steps"] = second["warmup_steps"]
        changes["optimizer.warmup_start"] = 0
    fields["phases"] = [
        {
            "steps": second["steps"],
            "moments": second["moments"],
            "own_schedule": own_schedule,
            "changes": {
                path: value
                for path, value in changes.items()
                if value is not None and value != value_at(fields, path)
            },
        }
    ]


def value_at(content: Any, path: str) -> Any:
    """Returns the value at a dotted path in nested dictionaries, or None if the path ends early."""
    for name in path.split("."):
        content = content.get(name) if isinstance(content, dict) else None
    return content
