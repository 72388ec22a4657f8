"""The runs of a sweep, from the functions of an experiment file, and the points they belong to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from itertools import combinations, islice, product
from pathlib import Path
from typing import Any

from bert_jax import config
from bert_jax.config.stored import changed_fields
from bert_jax.errors import ConfigError, located, require
from bert_jax.sweeps.evaluations import Evaluation


@dataclass(frozen=True)
class PlannedRun:
    """A run of a sweep."""

    id: str
    """Name of the run's directory."""
    overrides: dict[str, Any]
    experiment: Any
    evaluations: tuple[Evaluation, ...] = ()
    """Measurements of the run after its training."""
    tuning: Any = None
    """The result of `tuning.choose` for the run's point; None without tune_over()."""


@dataclass(frozen=True)
class Point:
    """Runs that differ only in their seed."""

    number: int
    """Number of the point, from 0; point 0 is the base of all comparisons."""
    fields: dict[str, Any]
    """Values of the config fields that are not the same in all points that have them; `ABSENT` for
    a field that this point's class does not have."""
    changes: dict[str, Any]
    """The entries of `fields` that differ from the base."""
    runs: tuple[PlannedRun, ...]
    tokens: int
    """Tokens of a run, at most: as if no row had padding."""
    flops: float
    """FLOPs of a run, at most."""


ABSENT = "-"
"""Value of a field that a config does not have, in a table."""

MOST_OVERRIDES = 10_000
"""A function that yields more is taken for one without end."""

_SWEEP = 'a function without arguments that yields dictionaries such as {"model.num_layers": 6}'


def load_sweeps(spec: str) -> list[list[dict[str, Any]]]:
    """Calls the functions sweep() and sweep_*() of an experiment file. Returns what each yields.

    The functions sweep_zip_*() count as one: it yields a dictionary that joins their first
    dictionaries, then a dictionary that joins their second ones, and so on.

    Raises:
      ConfigError: there is no such function, or it raises an exception or yields something else.
    """
    file, _ = config.split_spec(spec)
    found = {
        name: overrides_of(value, name, file)
        for name, value in sorted(vars(config.load_module(spec)).items())
        if name == "sweep" or name.startswith("sweep_")
    }
    if not found:
        raise ConfigError(f"{file} has no sweep() and no sweep_*(); accepted: {_SWEEP}")
    fields = {name: {*_join(overrides)} for name, overrides in found.items()}
    for (one, ours), (other, theirs) in combinations(fields.items(), 2):
        if both := ours & theirs:
            raise ConfigError(f"{file}: {one} and {other} set {min(both)}; accepted: one of them")
    zipped = {name: found.pop(name) for name in list(found) if name.startswith("sweep_zip_")}
    if len({len(overrides) for overrides in zipped.values()}) > 1:
        counts = ", ".join(f"{name} {len(overrides)}" for name, overrides in zipped.items())
        raise ConfigError(f"{file}: numbers of dictionaries: {counts}; accepted: equally many")
    joined = [_join(group) for group in zip(*zipped.values(), strict=True)]
    return [*([joined] if zipped else []), *found.values()]


def _join(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {path: value for part in parts for path, value in part.items()}


def overrides_of(function: Any, name: str, file: Path) -> list[dict[str, Any]]:
    """Returns what a function of an experiment file yields. Raises ConfigError as `load_sweeps`."""
    with config.errors_of(file):
        yielded = function() if callable(function) else function
        if not isinstance(yielded, Iterable) or isinstance(yielded, str | Mapping):
            raise ConfigError(f"{file}: {name} yields {yielded!r:.60}; accepted: {_SWEEP}")
        overrides = list(islice(yielded, MOST_OVERRIDES + 1))
    if not overrides or len(overrides) > MOST_OVERRIDES:
        count = f"more than {MOST_OVERRIDES} dictionaries" if overrides else "nothing"
        raise ConfigError(f"{file}: {name} yields {count}; accepted: {_SWEEP}")
    for one in overrides:
        if not isinstance(one, Mapping) or not all(isinstance(path, str) for path in one):
            raise ConfigError(f"{file}: {name} yields {one!r:.60}; accepted: {_SWEEP}")
    return overrides


def expand(base: Any, sweeps: Sequence[Iterable[dict[str, Any]]]) -> list[PlannedRun]:
    """Returns a run for each different config that combines one override of each sweep."""
    runs: dict[str, PlannedRun] = {}
    for combination in product(*(list(sweep) for sweep in sweeps)):
        overrides = _join(combination)
        with located(f"the run {describe(overrides):.200}"):
            experiment = config.override(base, overrides)
        identifier = config.config_hash(experiment)
        runs.setdefault(identifier, PlannedRun(identifier, overrides, experiment))
        count = f"more than {MOST_OVERRIDES} runs"
        require(len(runs) <= MOST_OVERRIDES, "the sweep", count, f"at most {MOST_OVERRIDES}")
    return list(runs.values())


def describe(overrides: Mapping[str, Any], *, empty: str = "with no change") -> str:
    """Returns overrides in a line. A whole sub-config is its class and its changed fields."""
    parts = []
    for path, value in overrides.items():
        if is_dataclass(value):
            value = f"{type(value).__name__}({describe(changed_fields(value), empty='')})"
        parts.append(f"{path}={value}")
    return ", ".join(parts) or empty


def keep_ids(runs: Sequence[PlannedRun], earlier: Mapping[str, Any]) -> list[PlannedRun]:
    """Returns the runs. A run with the same config as one in `earlier` gets the earlier id."""
    names = {config.config_hash(run): name for name, run in earlier.items()}
    return [replace(run, id=names.get(run.id, run.id)) for run in runs]


def points_of(runs: Sequence[PlannedRun]) -> list[Point]:
    """Returns the points of a sweep in the order of their first runs."""
    # These import jax, which a command imports only when it runs.
    from bert_jax.planning.timeline import phase_flops, phase_tokens
    from bert_jax.training.experiment import phases

    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        seedless = config.config_hash(config.override(run.experiment, {"seed": 0}))
        groups.setdefault(seedless, []).append(run)
    configs = [config.flatten(group[0].experiment, classes=True) for group in groups.values()]
    paths = dict.fromkeys(path for one in configs for path in one if path != "seed")
    columns = {path: [one.get(path, ABSENT) for one in configs] for path in paths}
    swept = {path: c for path, c in columns.items() if len({*map(repr, c)} - {repr(ABSENT)}) > 1}
    points = []
    for number, group in enumerate(groups.values()):
        shown = {path: values[number] for path, values in swept.items()}
        changes = {path: value for path, value in shown.items() if value != swept[path][0]}
        plan = phases(group[0].experiment)
        tokens, flops = sum(map(phase_tokens, plan)), sum(map(phase_flops, plan))
        points.append(Point(number, shown, changes, tuple(group), tokens, flops))
    return points
