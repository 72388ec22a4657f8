"""Overriding, storing, hashing and loading of configs is exact; errors name field and value."""

import dataclasses
import hashlib
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from msgspec import Meta

from bert_jax import config
from bert_jax.config import (
    check_bounds,
    config_hash,
    diff,
    flatten,
    from_json,
    load_experiment,
    override,
    to_json,
)
from bert_jax.config.migration import REMOVED_FIELDS
from bert_jax.config.paths import open_path
from bert_jax.data.remote import worked_on_locally
from bert_jax.data.sources.files import list_files
from bert_jax.errors import ConfigError
from bert_jax.files import read_bytes
from bert_jax.models.config import BertConfig
from bert_jax.tasks.readers.read import read_records
from bert_jax.training.experiment import Experiment

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Wing:
    width: Annotated[int, Meta(ge=1)] = 4
    ratio: float = 0.5
    kind: Literal["round", "square"] = "round"
    shares: tuple[float, float] = (0.5, 0.5)
    limit: int | None = None
    glass: Annotated[float, Meta(ge=0, le=1)] = 0.5
    axes: str | tuple[str, ...] | None = None
    windows: Annotated[int, Meta(ge=2, le=9)] | None = None

    def __post_init__(self):
        check_bounds(self, "wing")


@dataclass(frozen=True, kw_only=True)
class House:
    name: str
    wing: Wing = field(default_factory=Wing)
    open: bool = False
    height: int = 8

    def __post_init__(self):
        if self.wing.width > self.height:
            raise ConfigError(f"wing.width {self.wing.width} is more than height {self.height}")


HOUSE = House(name="mill")


def leaf(root, path):
    for name in path.split("."):
        root = getattr(root, name)
    return root


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("height", "12", 12),
        ("wing.width", "7", 7),
        ("wing.ratio", "2e-4", 2e-4),
        ("wing.ratio", "3", 3.0),
        ("open", "true", True),
        ("open", "False", False),
        ("wing.limit", "null", None),
        ("wing.limit", "5", 5),
        ("wing.shares", "[0.25, 0.75]", (0.25, 0.75)),
        ("wing.kind", "square", "square"),
        ("wing.axes", "data", "data"),
        ("wing.axes", '["data", "fsdp"]', ("data", "fsdp")),
        ("wing.axes", "null", None),
        ("name", "null", "null"),
        ("name", "12", "12"),
        ("name", "a=b.c", "a=b.c"),
    ],
)
def test_a_string_is_read_as_the_type_of_its_field(path, text, value):
    result = leaf(override(HOUSE, {path: text}), path)
    assert result == value and type(result) is type(value)


def test_an_override_changes_no_other_field_and_not_the_original():
    before = flatten(HOUSE)
    changed = override(HOUSE, {"wing.width": 6, "open": True})
    assert flatten(HOUSE) == before
    assert diff(HOUSE, changed) == {"wing.width": (4, 6), "open": (False, True)}


def test_a_python_value_is_not_converted_like_a_string():
    assert type(override(HOUSE, {"wing.ratio": 1}).wing.ratio) is float
    for path, value in (("height", "8.5"), ("height", 8.5), ("height", True), ("name", 3)):
        with pytest.raises(ConfigError):
            override(HOUSE, {path: value})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("height", "tall", ("height", "'tall'", "accepted: int")),
        ("height", "true", ("height", "True", "accepted: int")),
        ("open", "no", ("open", "'no'", "accepted: bool")),
        ("wing.kind", "oval", ("wing.kind", "'oval'", "accepted: round, square")),
        ("wing.limit", "none", ("wing.limit", "'none'", "accepted: int or null")),
        ("wing.shares", "[1]", ("wing.shares", "[1]", "accepted: [float, float]")),
        ("wing", HOUSE, ("wing", "House", "accepted: Wing")),
        ("wing", "{}", ("wing is {}; accepted: a JSON object with a field to set",)),
        ("wing", {}, ("wing is {}; accepted: a JSON object with a field to set",)),
        ("wing.width", np.int64(5), ("wing.width is np.int64(5); accepted: int, at least 1",)),
        ("wing.glass", np.float64(0.5), ("is np.float64(0.5); accepted: float, 0 to 1",)),
    ],
)
def test_a_value_of_another_type_is_refused(path, value, said):
    with pytest.raises(ConfigError) as error:
        override(HOUSE, {path: value})
    assert all(part in str(error.value) for part in said), error.value


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("wing.widht", "wing.width"),
        ("hight", "height"),
        ("wng.width", "wing.width"),
        ("optimizer.learning_rte", "optimizer.learning_rate"),
        ("trainng.steps", "training.steps"),
        ("trainng.stops", "training.steps"),
        ("learning_rate", "optimizer.learning_rate"),
        ("learning_rte", "optimizer.learning_rate"),
        ("model.learning_rate", "optimizer.learning_rate"),
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
    ],
)
def test_the_error_for_an_unknown_field_suggests_the_nearest_path(path, nearest, experiment):
    root = HOUSE if not re.search("optimizer|train|rate|lr|learn", path) else experiment
    with pytest.raises(ConfigError) as error:
        override(root, {path: "1"})
    suggestions = str(error.value).split("did you mean ")[1].split(", ")
    assert repr(path) in str(error.value) and suggestions[0] == nearest


@pytest.mark.parametrize("path", ["train.train_steps", "eval.eval_every", ".seed"])
def test_suggested_paths_exist(path, experiment):
    with pytest.raises(ConfigError) as error:
        override(experiment, {path: "1"})
    suggestions = re.split("did you mean |accepted: ", str(error.value))[1].split(", ")
    for suggestion in suggestions:
        leaf(experiment, suggestion)  # raises AttributeError for a path that is not there


def test_a_path_below_a_leaf_is_refused():
    with pytest.raises(ConfigError, match="height.top.*int"):
        override(HOUSE, {"height.top": "1"})


def test_an_override_repeats_all_checks():
    with pytest.raises(ConfigError, match="wing.width is 0"):
        override(HOUSE, {"wing.width": 0})
    with pytest.raises(ConfigError, match="more than height 3"):
        override(HOUSE, {"height": 3})


def test_fields_that_only_fit_together_can_be_overridden_together():
    assert override(HOUSE, {"wing.width": 20, "height": 30}).wing.width == 20
    assert override(HOUSE, {"height": 30, "wing.width": 20}).height == 30


def test_a_value_may_be_a_whole_sub_config():
    wing = Wing(width=2, kind="square")
    assert override(HOUSE, {"wing": wing}).wing == wing


@pytest.mark.parametrize("order", [("wing", "wing.width"), ("wing.width", "wing")])
def test_a_field_given_with_its_whole_sub_config_is_not_lost(order):
    """Products of sweeps make such mappings. They are applied in order or refused by name."""
    values = {"wing": Wing(kind="square"), "wing.width": 2}
    try:
        result = override(HOUSE, {path: values[path] for path in order})
    except ConfigError as error:
        assert "wing.width" in str(error)
    else:
        assert result.wing == Wing(kind="square", width=2)


def test_a_sub_config_as_json_is_checked_like_a_path():
    with pytest.raises(ConfigError, match="widht"):
        override(HOUSE, {"wing": '{"widht": 2}'})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer.weight_decay", "NaN"),
        ("optimizer.learning_rate", "Infinity"),
        ("data.masking.split", "[NaN, 0.2, 0]"),
        ("model.intermediate_size", "0"),
        ("model.intermediate_size", "-3"),
        ("model.num_segments", "0"),
        ("model.layer_norm_epsilon", "-1"),
        ("model.initializer_stddev", "-1"),
    ],
)
def test_invalid_numbers_are_refused(path, value, experiment):
    with pytest.raises(ConfigError, match=path.split(".")[-1]):
        override(experiment, {path: value})


WRONG_VALUES = {
    "wing.width": (0, "wing.width is 0; accepted: at least 1"),
    "wing.windows": (1, "wing.windows is 1; accepted: 2 to 9 or null"),
    "wing.kind": ("oval", "wing.kind is 'oval'; accepted: round, square"),
    "wing.ratio": (float("nan"), "wing.ratio is nan; accepted: finite numbers"),
    "wing.shares": ([0.5, float("inf")], "wing.shares is [0.5, inf]; accepted: finite numbers"),
    "wing.limit": (1.5, "wing.limit is 1.5; accepted: int or null"),
}


@pytest.mark.parametrize("path", WRONG_VALUES)
def test_flags_json_and_python_give_the_same_error(path):
    value, said = WRONG_VALUES[path]
    stored = to_json(HOUSE)
    stored["wing"][path.split(".")[1]] = value
    text = value if isinstance(value, str) else json.dumps(value)
    for make in (
        lambda: override(HOUSE, {path: text}),
        lambda: override(HOUSE, {path: value}),
        lambda: from_json(House, stored),
        lambda: Wing(**{path.split(".")[1]: value}),
    ):
        with pytest.raises(ConfigError) as error:
            make()
        assert str(error.value) == said


def test_the_error_for_a_number_of_another_type_names_type_and_bounds():
    with pytest.raises(ConfigError, match="^wing.width is 2.5; accepted: int, at least 1$"):
        Wing(width=2.5)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ConfigError, match="activation is 'elu'; accepted: gelu_erf, gelu_tanh"):
        BertConfig(activation="elu")


def test_the_warm_up_ends_before_the_run_does(experiment):
    """A warm-up of 20 steps that starts 9 steps before the run ends at step 11 of 12."""
    override(experiment, {"optimizer.warmup_steps": 20, "optimizer.warmup_start": -9})
    with pytest.raises(ConfigError, match="warmup_steps is 20; accepted: fewer than 20"):
        override(experiment, {"optimizer.warmup_steps": 20, "optimizer.warmup_start": -8})


def test_json_round_trip_keeps_every_value_and_type(experiment):
    changed = override(
        experiment,
        {"model.intermediate_size": 48, "sharding.embed": ("data", "fsdp"), "sharding.vocab": None},
    )
    for value in (experiment, changed):
        stored = json.loads(json.dumps(to_json(value)))
        assert stored["format_version"] == config.FORMAT_VERSION
        assert from_json(Experiment, stored) == value


def stored_house():
    return to_json(override(HOUSE, {"wing.limit": 3}))


def remove(path):
    def change(stored):
        *parents, name = path.split(".")
        for parent in parents:
            stored = stored[parent]
        del stored[name]

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda stored: stored.update(nmae="x"), "nmae.*name"),
        (lambda stored: stored["wing"].update(widht=1), "wing.widht.*width"),
        (remove("name"), "name"),
        (lambda stored: stored.update(height="8"), "height"),
        (lambda stored: stored["wing"].update(shares=[1.0]), "shares"),
        (lambda stored: stored["wing"].update(kind="oval"), "kind"),
        (lambda stored: stored["wing"].update(width=0), "wing.width is 0"),
        (lambda stored: stored.update(format_version=99), "format_version 99"),
        (remove("format_version"), "format_version None"),
    ],
    ids=[
        "unknown",
        "unknown-below",
        "missing",
        "mistyped",
        "short-tuple",
        "not-in-literal",
        "refused-by-check",
        "other-version",
        "no-version",
    ],
)
def test_an_invalid_stored_config_is_refused_by_name(change, named):
    stored = stored_house()
    change(stored)
    with pytest.raises(ConfigError, match=named):
        from_json(House, stored)


def test_the_hash_depends_only_on_values_and_is_stable(experiment):
    # The canonical form is written out, because a change of it would rename every run.
    canonical = '{"format_version":4,"name":"mill"}'
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert config_hash(HOUSE) == config_hash(House(name="mill")) == digest
    changed = override(HOUSE, {"wing.shares": (0.25, 0.75), "height": 9})
    canonical = '{"format_version":4,"height":9,"name":"mill","wing":{"shares":[0.25,0.75]}}'
    assert config_hash(changed) == hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert config_hash(from_json(Experiment, to_json(experiment))) == config_hash(experiment)


def test_the_hashes_of_two_runs_are_pinned():
    """A changed hash renames every run of a sweep, so it needs a new format version."""
    for spec, digest in (("bert.py:base", "b831832db59a"), ("presets.py:mlperf", "6ff13155d111")):
        assert config_hash(load_experiment(ROOT / "experiments" / spec)) == digest, spec


def test_a_new_field_with_a_default_changes_no_hash():
    extended = dataclasses.make_dataclass(
        "Extended",
        [("lift", bool, field(default=False)), ("doors", int, field(default=2))],
        bases=(House,),
        frozen=True,
        kw_only=True,
    )
    wide = {"wing.width": 6, "height": 9}
    for changes in ({}, wide):
        value = override(extended(name="mill"), changes)
        assert config_hash(value) == config_hash(override(HOUSE, changes))
    assert config_hash(extended(name="mill", lift=True)) != config_hash(HOUSE)


def test_defaults_of_a_section_are_those_of_its_owner():
    @dataclass(frozen=True, kw_only=True)
    class Street:
        house: House = field(default_factory=lambda: House(name="mill", height=12))

    names = {config_hash(Street(house=House(name="mill", height=h))) for h in (8, 12)}
    assert len(names) == 2
    canonical = '{"format_version":4}'
    assert config_hash(Street()) == hashlib.sha256(canonical.encode()).hexdigest()[:12]


def test_a_second_phase_without_steps_does_not_change_the_hash(experiment):
    """In format 1, the fields of a second phase with 0 steps changed the hash."""
    stored = {**to_json(experiment), "format_version": 1}
    del stored["phases"]
    for second in ({}, {"steps": 0}, {"steps": 0, "batch_size": 128}):
        again = from_json(Experiment, {**stored, "second_phase": second})
        same = override(experiment, {"model.dropout_bits": "threefry"})
        assert again == same and config_hash(again) == config_hash(same)


def test_a_removed_field_is_dropped_only_at_its_old_default(experiment, monkeypatch):
    monkeypatch.setitem(REMOVED_FIELDS, "training.patience", None)
    monkeypatch.setitem(REMOVED_FIELDS, "depth", 3)
    stored = to_json(experiment)
    stored["training"]["patience"] = None
    before = json.dumps(stored)
    assert from_json(Experiment, stored) == experiment and json.dumps(stored) == before
    stored["training"]["patience"] = 5
    with pytest.raises(ConfigError, match="training.patience is 5.*removed; accepted: None"):
        from_json(Experiment, stored)
    with pytest.raises(ConfigError, match="depth is 4"):
        from_json(House, to_json(HOUSE) | {"depth": 4})


@pytest.mark.parametrize("version", [1, 2])
def test_a_config_of_an_older_format_keeps_threefry_dropout(experiment, version):
    stored = {**to_json(experiment), "format_version": version}
    del stored["model"]["dropout_bits"]
    assert from_json(Experiment, stored).model.dropout_bits == "threefry"
    stored["format_version"] = 3
    assert from_json(Experiment, stored).model.dropout_bits == "hash"


def test_bfloat16_gradients_need_a_bfloat16_model(experiment):
    halved = {"model.dtype": "bfloat16", "training.gradient_dtype": "bfloat16"}
    assert override(experiment, halved).training.gradient_dtype == "bfloat16"
    with pytest.raises(ConfigError, match="accepted: float32 with model.dtype=float32"):
        override(experiment, {"training.gradient_dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("layers", "stored", "value"),
    [(4, False, None), (4, True, True), (12, True, None), (12, False, None)],
)
def test_up_to_format_3_the_usual_values_of_scan_layers_become_null(
    layers, stored, value, experiment
):
    content = to_json(override(experiment, {"model.num_layers": layers}))
    content["model"]["scan_layers"] = stored
    assert from_json(Experiment, content).model.scan_layers is stored
    content["format_version"] = 3
    assert from_json(Experiment, content).model.scan_layers is value


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_up_to_format_3_gradients_had_the_dtype_of_the_model(dtype, experiment):
    content = to_json(override(experiment, {"model.dtype": dtype})) | {"format_version": 3}
    del content["training"]["gradient_dtype"]
    assert from_json(Experiment, content).training.gradient_dtype == dtype


def test_a_second_phase_of_format_1_becomes_a_phase(experiment):
    def read(**second):
        stored = {**to_json(experiment), "format_version": 1}
        del stored["phases"]
        return from_json(Experiment, {**stored, "second_phase": {"steps": 4, **second}})

    rows = {"sequence_length": 48, "max_predictions": 8}
    (phase,) = read(**rows).phases
    assert (phase.steps, phase.moments, phase.own_schedule) == (4, "kept", False)
    assert phase.changes == {
        "data.sequence_length": 48,
        "data.batch_size": 256,  # the default of the second phase, independent of `data`
        "data.masking.max_predictions": 8,
        "data.evaluation_masking.max_predictions": 8,
    }
    (phase,) = read(sequence_length=32, max_predictions=6, batch_size=16).phases
    assert phase.changes == {"data.directory": f"{experiment.data.directory}-32"}
    (phase,) = read(**rows, learning_rate=1e-4, moments="zeroed").phases
    assert (phase.moments, phase.own_schedule) == ("zeroed", True)
    assert phase.changes["optimizer.learning_rate"] == 1e-4
    assert phase.changes["optimizer.warmup_steps"] == 0  # its default in format 1
    with pytest.raises(ConfigError, match="second_phase.btch_size.*batch_size"):
        read(btch_size=4)


def test_the_hash_differs_for_every_single_field(experiment):
    changes = {
        "height": 9,
        "name": "barn",
        "open": True,
        "wing.width": 5,
        "wing.ratio": 0.25,
        "wing.kind": "square",
        "wing.shares": (0.25, 0.75),
        "wing.limit": 1,
        "wing.glass": 0.25,
        "wing.axes": "data",
        "wing.windows": 3,
    }
    assert changes.keys() == flatten(HOUSE).keys()
    hashes = {config_hash(override(HOUSE, {path: value})) for path, value in changes.items()}
    assert len(hashes | {config_hash(HOUSE)}) == len(changes) + 1


def test_equal_configs_have_equal_hashes_for_int_and_float(experiment):
    """An experiment file may say `weight_decay=0`, and an override gives 0.0."""
    written = dataclasses.replace(
        experiment, optimizer=dataclasses.replace(experiment.optimizer, weight_decay=0)
    )
    overridden = override(experiment, {"optimizer.weight_decay": "0"})
    assert written == overridden
    assert config_hash(written) == config_hash(overridden)


def test_diff_names_exactly_the_leaves_that_differ(experiment):
    changes = {"seed": 3, "data.masking.rate": 0.1, "model.dtype": "bfloat16"}
    changed = override(experiment, changes)
    assert diff(experiment, experiment) == {}
    assert {path: now for path, (_, now) in diff(experiment, changed).items()} == changes
    assert all(
        before == leaf(experiment, p) for p, (before, _) in diff(experiment, changed).items()
    )


# ---- Experiment files -------------------------------------------------------------------------

VARIANTS = """\
from typing import Literal

from bert_jax.models.config import BertConfig


def get_config(variant: Literal["narrow", "wide"] = "narrow") -> BertConfig:
    return BertConfig(hidden_size={"narrow": 24, "wide": 96}[variant])
"""


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_loaded_with_its_default_or_named_variant(tmp_path):
    file = write(tmp_path / "mine.py", VARIANTS)
    assert load_experiment(str(file)) == BertConfig(hidden_size=24)
    assert load_experiment(f"{file}:narrow") == BertConfig(hidden_size=24)
    assert load_experiment(f"{file}:wide") == BertConfig(hidden_size=96)


def test_a_file_may_import_its_neighbour(tmp_path):
    write(tmp_path / "neighbour_of_mine.py", "WIDTH = 36\n")
    text = VARIANTS.replace('"narrow": 24', '"narrow": neighbour_of_mine.WIDTH')
    file = write(tmp_path / "mine.py", "import neighbour_of_mine\n" + text)
    before = list(sys.path)
    assert load_experiment(str(file)) == BertConfig(hidden_size=36)
    # An import within the function, and a file that adds a directory of its own.
    text = f"import sys\nsys.path.insert(0, {str(tmp_path / 'own')!r})\n" + VARIANTS
    text = text.replace("    return", "    import other_of_mine as other\n    return")
    write(tmp_path / "other_of_mine.py", "WIDTH = 48\n")
    file = write(tmp_path / "later.py", text.replace('"narrow": 24', '"narrow": other.WIDTH'))
    assert load_experiment(str(file)) == BertConfig(hidden_size=48)
    assert sys.path == [str(tmp_path / "own"), *before]


def test_the_error_for_an_unknown_variant_suggests_the_nearest_or_all(tmp_path):
    file = write(tmp_path / "mine.py", VARIANTS)
    with pytest.raises(ConfigError, match="'wid'; did you mean wide"):
        load_experiment(f"{file}:wid")
    with pytest.raises(ConfigError, match="'x'; accepted: narrow, wide"):
        load_experiment(f"{file}:x")


def test_a_variant_of_a_file_without_variants_is_refused(tmp_path):
    file = write(tmp_path / "mine.py", "def get_config():\n    return 1\n")
    with pytest.raises(ConfigError, match="no variants.*'wide'"):
        load_experiment(f"{file}:wide")


def test_a_variant_argument_without_literal_is_refused(tmp_path):
    file = write(tmp_path / "mine.py", VARIANTS.replace('Literal["narrow", "wide"]', "str"))
    with pytest.raises(ConfigError, match="names no variants.*'wide'; accepted: .*Liter"):
        load_experiment(f"{file}:wide")
    optional = VARIANTS.replace('Literal["narrow", "wide"]', 'Literal["narrow", "wide"] | None')
    for number, text in enumerate((optional, VARIANTS.replace('"wide"]', "3]"))):
        file = write(tmp_path / f"other_{number}.py", text)
        with pytest.raises(ConfigError, match="'3'"):
            load_experiment(f"{file}:3")


def test_the_error_for_an_unknown_file_suggests_the_nearest(tmp_path):
    write(tmp_path / "quickstart.py", VARIANTS)
    for spec in (tmp_path / "quikstart.py", f"{tmp_path / 'quikstart.py'}:wide"):
        with pytest.raises(ConfigError, match=r"did you mean .*quickstart\.py"):
            load_experiment(str(spec))
    for spec in (tmp_path, f"{tmp_path}:wide"):
        with pytest.raises(ConfigError, match=r"no experiment file .*; accepted: .*quickstart\.py"):
            load_experiment(str(spec))


def test_the_error_for_an_unknown_file_lists_no_empty_suggestions(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.py") as error:
        load_experiment(str(tmp_path / "nowhere.py"))
    assert not str(error.value).rstrip().endswith("accepted:")


FAILING = {
    "in-get_config": ("import math\n\n\ndef get_config():\n    return 1 / 0\n", 5, "division"),
    "in-module": ("import math\n\nWIDTH = wdith\n", 3, "wdith"),
    "in-helper": (
        "def help():\n    return []\n\n\ndef get_config():\n    return help()[0]\n",
        6,
        "IndexError",
    ),
    "syntax": ("import math\n\ndef get_config(:\n", 3, "SyntaxError"),
    "missing-import": ("import math\nimport no_such_module\n", 2, "no_such_module"),
}


@pytest.mark.parametrize("spelling", ["absolute", "relative"])
@pytest.mark.parametrize("case", FAILING)
def test_an_error_in_the_file_names_file_and_line(case, spelling, tmp_path, monkeypatch):
    text, line, said = FAILING[case]
    file = write(tmp_path / "mine.py", text)
    monkeypatch.chdir(tmp_path)
    spec = str(file) if spelling == "absolute" else "mine.py"
    with pytest.raises(ConfigError, match=said) as error:
        load_experiment(spec)
    assert str(error.value).startswith(f"{spec}:{line}: ")


def test_a_file_without_get_config_is_refused(tmp_path):
    file = write(tmp_path / "mine.py", "config = 3\n")
    with pytest.raises(ConfigError, match=r"mine\.py defines no get_config"):
        load_experiment(str(file))


def test_a_get_config_that_returns_nothing_is_refused(tmp_path):
    """A forgotten `return` is a common mistake."""
    file = write(tmp_path / "mine.py", "def get_config():\n    3\n")
    with pytest.raises(ConfigError, match=r"mine\.py.*None"):
        override(load_experiment(str(file)), {})


def test_an_unresolvable_annotation_is_an_error_of_the_file(tmp_path):
    text = "from __future__ import annotations\n\n\ndef get_config(variant: Literal['a'] = 'a'):\n"
    file = write(tmp_path / "mine.py", text + "    return 1\n")
    with pytest.raises(ConfigError, match=r"mine\.py.*Literal"):
        load_experiment(str(file))


def test_an_invalid_combination_in_the_file_gives_the_error_of_the_check(tmp_path):
    file = write(tmp_path / "mine.py", VARIANTS.replace("96", "50"))
    with pytest.raises(ConfigError, match="model.hidden_size is 50; accepted: a multiple"):
        load_experiment(f"{file}:wide")


def test_a_json_object_sets_only_the_fields_it_names(experiment):
    changed = override(experiment, {"data.masking": '{"rate": 0.1}'})
    assert diff(experiment, changed) == {"data.masking.rate": (0.15, 0.1)}


def test_a_masking_rate_above_max_predictions_is_refused(experiment):
    with pytest.raises(ConfigError, match="max_predictions is 6.*at least 12"):
        override(experiment, {"data.masking.rate": 0.4})


def test_rate_points_are_read_from_json_and_need_room_for_the_highest_rate(
    experiment,
):
    points = "[[0.5, 0.1], [1, 0.05]]"
    changed = override(experiment, {"data.masking.rate_points": points})
    assert changed.data.masking.rate_points == ((0.5, 0.1), (1.0, 0.05))
    assert from_json(Experiment, json.loads(json.dumps(to_json(changed)))) == changed
    with pytest.raises(ConfigError, match=r"rate 0\.4 of 32 tokens; accepted: at least 12"):
        override(experiment, {"data.masking.rate_points": "[[0.5, 0.4]]"})


def test_a_pair_loss_without_pairs_is_refused(experiment):
    with pytest.raises(ConfigError, match="objective.next_sentence is True.*accepted: False"):
        override(experiment, {"data.pairs": "none"})
    override(experiment, {"data.pairs": "none", "objective.next_sentence": False})


def test_a_path_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine.py", VARIANTS)
    assert load_experiment("~/mine.py:wide") == BertConfig(hidden_size=96)
    assert open_path("~/runs/a", name="--workdir") == tmp_path / "runs" / "a"
    (tmp_path / "a.txt").write_text("text")
    assert list_files("~/*.txt", spec="text:~/*.txt") == [(f"{tmp_path}/a.txt", 4)]
    assert read_bytes(Path("~/a.txt")) == b"text"
    (tmp_path / "a.jsonl").write_text('{"text": "good", "label": "yes"}\n')
    assert len(read_records("jsonl:~/a.jsonl")) == 1
    with worked_on_locally("~/data", last="passport.json") as directory:
        assert directory == f"{tmp_path}/data"
