"""Converts the tensors of another implementation (the source) to parameters and back.

Conversion is strict: a tensor is used, or is ignored for a stated reason, or raises an error.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from bert_jax.errors import CheckpointError
from bert_jax.interop.names import NAMES, OPTIONAL_PARTS, TIED, Name, canonical, explain
from bert_jax.interop.source import Source

Shape = tuple[int, ...]
Parameters = dict[str, np.ndarray]
"""Float32 arrays by path, for instance `bert/layers/attention/query/kernel`."""

FLOATS = ("float32", "float16", "bfloat16", "float64")
"""Dtypes that become float32. float32 represents all values of the first three exactly."""

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
    casing: str = ""
    """See `Source`."""

    def __str__(self) -> str:
        kinds = {kind: lines for kind, lines in vars(self).items() if kind != "casing"}
        counts = ", ".join(f"{len(lines)} {kind}" for kind, lines in kinds.items())
        lines = [f"  {kind:10} {line}" for kind, lines in kinds.items() for line in lines]
        return "\n".join([f"tokenizer: {self.casing}", f"tensors: {counts}", *lines])


def to_parameters(
    source: Source,
    shapes: Mapping[str, Shape],
    *,
    initialize: Callable[[Collection[str]], Parameters],
    allow: Collection[str] = (),
) -> tuple[Parameters, LoadingReport]:
    """Converts a source's tensors to parameters, and reports the use of every tensor.

    Args:
      source: weights whose tensors are each read once, or twice if they are tied.
      shapes: shapes of the model's parameters by path. Rows of a table beyond those of the source
        are zero.
      initialize: makes parameters for the given paths; called for paths that the source lacks.
      allow: unexpected tensors to ignore, or prefixes of their names (`cls.chain`), and parts of
        OPTIONAL_PARTS that may be missing.

    Raises:
      CheckpointError: lists tensors that are missing, unexpected, of another shape or dtype, or
        hold a NaN or an infinity.
    """
    tensors, convention = source.tensors, source.convention
    report, problems = LoadingReport(casing=source.casing), []
    names = _source_names(source)
    _drop_tied(names, tensors, report, problems)
    parameters, missing = {}, {}
    for name in source.names:
        shape = shapes[name.path]
        layers = shape[0] if name.stacked else 1
        foreign = [getattr(name, convention).format(layer=layer) for layer in range(layers)]
        if lacking := [one for one in foreign if one not in names]:
            missing[name.path] = lacking
            continue
        parameters[name.path] = np.zeros(shape, np.float32)
        for layer, one in enumerate(foreign):
            where, into = name.path, parameters[name.path]
            if name.stacked:
                where, into = f"{where}[{layer}]", into[layer]
            problems += _convert(name, names.pop(one), source, into, where, report)
    problems += _missing_problems(missing, parameters, allow)
    problems += _sort_out(names, source, allow, report)
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise CheckpointError("; ".join(problems[:SHOWN] + more))
    for path, initial in (initialize(missing) if missing else {}).items():
        parameters[path] = initial
        report.missing.append(f"{path} {_describe(initial)}: initialized")
    return parameters, report


def _convert(
    name: Name,
    tensor_name: str,
    source: Source,
    into: np.ndarray,
    where: str,
    report: LoadingReport,
) -> Iterator[str]:
    """Copies a tensor into the parameter `where`, and reports its use. Yields problems."""
    tensor = source.tensors[tensor_name]
    expected = _foreign_shape(name, into.shape, source)
    if tensor.shape != expected:
        yield f"{tensor_name} is {list(tensor.shape)}, not {list(expected)}"
        return
    if tensor.dtype.name not in FLOATS:
        yield f"{tensor_name} is {tensor.dtype}, not {' or '.join(FLOATS)}"
        return
    transposed = source.convention in name.transposed
    with np.errstate(over="ignore"):  # an infinity is a problem below
        values = (tensor.T if transposed else tensor).astype(np.float32)
    if not np.isfinite(values).all():
        yield f"{tensor_name} holds a NaN or an infinity (accepted: finite numbers)"
    if name.padded:
        into[: len(values)] = values
    else:
        into[...] = values.reshape(into.shape)
    same = expected == into.shape and tensor.dtype == np.float32 and not transposed
    line = f"{tensor_name} {_describe(tensor)} -> {where} {_describe(into)}"
    (report.used if same else report.reshaped).append(line)


def _sort_out(
    names: Mapping[str, str], source: Source, allow: Collection[str], report: LoadingReport
) -> Iterator[str]:
    """Reports the tensors `names` that no parameter needs. Yields those that nobody explains."""
    prefixes = {*allow} - {*OPTIONAL_PARTS}
    unused = {one for one in prefixes if not any(_is_in(name, one) for name in source.tensors)}
    for one in sorted(unused):
        yield (
            f"allow has {one}; accepted: a tensor of these weights, the first part of its name, "
            f"{', '.join(OPTIONAL_PARTS)}"
        )
    for one, tensor_name in names.items():
        allowed = any(_is_in(tensor_name, prefix) for prefix in prefixes)
        if why := explain(one, source.convention) or ("allowed" if allowed else None):
            tensor = source.tensors[tensor_name]
            report.unexpected.append(f"{tensor_name} {_describe(tensor)}: {why}")
        else:
            yield f"unexpected {tensor_name} (accepted: allow this name, which ignores it)"


def _is_in(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith((f"{prefix}.", f"{prefix}/"))


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


def _source_names(source: Source) -> dict[str, str]:
    """Returns a dict from the canonical name of each tensor to its name in the source."""
    names: dict[str, str] = {}
    for name in sorted(source.tensors):
        one = canonical(name, source.convention) if source.names is NAMES else name
        if one in names:
            raise CheckpointError(f"{names[one]} and {name} are two names of one tensor")
        names[one] = name
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


def _foreign_shape(name: Name, ours: Shape, source: Source) -> Shape:
    shape = _matrix(name, (source.config.vocab_size, *ours[1:]) if name.padded else ours)
    return shape[::-1] if source.convention in name.transposed else shape


def _matrix(name: Name, ours: Shape) -> Shape:
    """Returns the shape of the vector or matrix, with heads and head size in one dimension."""
    if not name.inputs:
        return (math.prod(ours),)
    return math.prod(ours[: name.inputs]), math.prod(ours[name.inputs :])


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
