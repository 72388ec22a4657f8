"""Converts the tensors of another implementation (the source) to parameters and back.

Conversion is strict: a tensor is used, or is ignored for a stated reason, or raises an error.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import ml_dtypes  # noqa: F401, makes bfloat16 a dtype of NumPy
import numpy as np

from bert_jax.errors import CheckpointError
from bert_jax.interop.names import NAMES, OPTIONAL_PARTS, TIED, Convention, Name, canonical, explain

Shape = tuple[int, ...]
Parameters = dict[str, np.ndarray]
"""Float32 arrays by path, for instance `bert/layers/attention/query/kernel`."""

EXACT_DTYPES = ("float32", "float16", "bfloat16")
"""Dtypes whose values float32 represents exactly."""

SHOWN = 10
"""Maximum number of problems in an error message."""


@dataclass(frozen=True, kw_only=True)
class LoadingReport:
    """A report of how each tensor was used, one line for each tensor."""

    used: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    """Tensors that were used after a transpose, a split into heads, padding or a cast."""
    missing: list[str] = field(default_factory=list)
    """Parameters that the source lacks. They were initialized with seed 0."""
    unexpected: list[str] = field(default_factory=list)
    """Tensors that were ignored, with the reason."""

    def __str__(self) -> str:
        counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in vars(self).items())
        lines = [f"  {kind:10} {line}" for kind, lines in vars(self).items() for line in lines]
        return "\n".join([f"tensors: {counts}", *lines])


def to_parameters(
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
    *,
    initialize: Callable[[Collection[str]], Parameters],
    convention: Convention,
    vocab_size: int,
    allow: Collection[str] = (),
) -> tuple[Parameters, LoadingReport]:
    """Converts a source's tensors to parameters, and reports the use of every tensor.

    Args:
      tensors: arrays by the source's names; each is read once, or twice if it is tied.
      shapes: shapes of the model's parameters by path.
      initialize: makes parameters for the given paths; called for paths that the source lacks.
      convention: the source's convention for names and for the orientation of matrices.
      vocab_size: number of rows of the source's token table. Further rows in bert_jax are zero.
      allow: unexpected tensors to ignore, and parts of OPTIONAL_PARTS that may be missing.

    Raises:
      CheckpointError: lists tensors that are missing, unexpected or of another shape or dtype.
    """
    report, problems = LoadingReport(), []
    sources = _source_names(tensors, convention)
    _drop_tied(sources, tensors, report, problems)
    parameters, missing = {}, {}
    for name in NAMES:
        shape = shapes[name.path]
        layers = shape[0] if name.stacked else 1
        foreign = [getattr(name, convention).format(layer=layer) for layer in range(layers)]
        lacking = [one for one in foreign if one not in sources]
        if lacking:
            missing[name.path] = lacking
            continue
        parameter = np.zeros(shape, np.float32)
        for layer, one in enumerate(foreign):
            into = parameter[layer] if name.stacked else parameter
            where = f"{name.path}[{layer}]" if name.stacked else name.path
            source = sources.pop(one)
            tensor = tensors[source]
            expected = _foreign_shape(name, into.shape, convention, vocab_size)
            if problem := _problem(tensor, expected):
                problems.append(f"{source} {problem}")
                continue
            _fill(into, tensor, name, convention)
            line = f"{source} {_describe(tensor)} -> {where} {_describe(into)}"
            same = expected == into.shape and tensor.dtype == np.float32
            same = same and convention not in name.transposed
            (report.used if same else report.reshaped).append(line)
        parameters[name.path] = parameter
    problems += _missing_problems(missing, parameters, allow)
    for name in sorted({*allow} - {*tensors, *OPTIONAL_PARTS}):
        problems.append(
            f"allow has {name}; accepted: a tensor of these weights, {', '.join(OPTIONAL_PARTS)}"
        )
    for one, source in sources.items():
        why = explain(one, convention) or ("allowed" if source in allow else None)
        if why:
            report.unexpected.append(f"{source} {_describe(tensors[source])}: {why}")
        else:
            problems.append(f"unexpected {source} (accepted: allow this name, which ignores it)")
    _raise_if_any(problems)
    for path, initial in (initialize(missing) if missing else {}).items():
        parameters[path] = initial
        report.missing.append(f"{path} {_describe(initial)}: initialized")
    return parameters, report


def _raise_if_any(problems: list[str]) -> None:
    """Raises a CheckpointError that lists the first SHOWN problems, if there are any."""
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise CheckpointError("; ".join(problems[:SHOWN] + more))


def from_parameters(
    parameters: Parameters, *, vocab_size: int, names: Iterable[Name] = NAMES
) -> dict[str, np.ndarray]:
    """Returns a model's tensors under Hugging Face's names, each tied tensor once."""
    tensors = {}
    for name in names:
        ours = parameters[name.path]
        for layer, tensor in enumerate(ours if name.stacked else [ours]):
            tensor = tensor[:vocab_size] if name.padded else tensor
            tensor = tensor.reshape(_matrix(name, tensor.shape))
            tensor = tensor.T if "huggingface" in name.transposed else tensor
            tensors[name.huggingface.format(layer=layer)] = np.ascontiguousarray(tensor)
    return tensors


def _source_names(tensors: Mapping[str, np.ndarray], convention: Convention) -> dict[str, str]:
    """Returns a dict from the canonical name of each tensor to its name in the source."""
    names: dict[str, str] = {}
    for source in sorted(tensors):
        one = canonical(source, convention)
        if one in names:
            raise CheckpointError(f"{names[one]} and {source} are two names of one tensor")
        names[one] = source
    return names


def _drop_tied(
    sources: dict[str, str],
    tensors: Mapping[str, np.ndarray],
    report: LoadingReport,
    problems: list[str],
) -> None:
    for second, first in TIED.items():
        if second not in sources:
            continue
        source = sources.pop(second)
        if first not in sources:
            sources[first] = source
        elif np.array_equal(tensors[source], tensors[sources[first]]):
            report.unexpected.append(f"{source}: equal to {sources[first]}, to which it is tied")
        else:
            problems.append(f"{source} differs from {sources[first]}, to which it is tied")


def _foreign_shape(name: Name, ours: Shape, convention: Convention, vocab_size: int) -> Shape:
    shape = _matrix(name, (vocab_size, *ours[1:]) if name.padded else ours)
    return shape[::-1] if convention in name.transposed else shape


def _matrix(name: Name, ours: Shape) -> Shape:
    """Returns the shape of the vector or matrix, with heads and head size in one dimension."""
    if not name.inputs:
        return (math.prod(ours),)
    return math.prod(ours[: name.inputs]), math.prod(ours[name.inputs :])


def _problem(tensor: np.ndarray, expected: Shape) -> str | None:
    if tensor.shape != expected:
        return f"is {list(tensor.shape)}, not {list(expected)}"
    if tensor.dtype.name not in EXACT_DTYPES:
        return f"is {tensor.dtype}, not {' or '.join(EXACT_DTYPES)}"
    return None


def _fill(into: np.ndarray, tensor: np.ndarray, name: Name, convention: Convention) -> None:
    tensor = tensor.T if convention in name.transposed else tensor
    if name.padded:
        into[: len(tensor)] = tensor
    else:
        into[...] = tensor.reshape(into.shape)


def _missing_problems(
    missing: dict[str, list[str]], parameters: Parameters, allow: Collection[str]
) -> list[str]:
    """Returns a message for each incomplete part of the model. Parts in `allow` may be absent."""
    by_part: dict[str, list[str]] = {}
    for path, names in missing.items():
        part = next((part for part in OPTIONAL_PARTS if path.startswith(part)), "")
        by_part.setdefault(part, []).extend(names)
    problems = []
    for part, (first, *rest) in by_part.items():
        whole = part and not any(path.startswith(part) for path in parameters)
        if not (whole and part in allow):
            more = f" and {len(rest)} more" if rest else ""
            hint = f" (accepted: allow {part}, which makes them random)" if whole else ""
            problems.append(f"missing {first}{more}{hint}")
    return problems


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
