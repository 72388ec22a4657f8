"""Reads the text of an optimized XLA program: instructions, sizes, FLOPs and loop counts.

XLA's own cost analysis is not used, because it counts the body of a loop only once.
"""

import functools
import math
import re
from dataclasses import dataclass

import numpy as np

SIZES = {
    **{"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2, "u16": 2, "f16": 2},
    **{"bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8},
}
"""Bytes of an element of each type."""

KERNEL_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
"""Number of matrix products in each kernel of `model.attention=splash`, by the start of its name.

Both backward kernels compute the scores and the gradient of the probabilities.
"""

WINDOW = {"size": "1", "stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
"""Default of each attribute of a convolution's window, for one dimension."""

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{")
_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][a-z0-9\-]*)\((.*)")
_ARRAY = re.compile(r"\b([a-z]+\d+[a-z0-9]*|pred)\[([\d,]*)\](\{[^}]*\})?")
# On-chip memory spaces of a TPU. Reading them uses no bandwidth of the chip's large memory (HBM).
_ON_CHIP = re.compile(r"S\([1-9]\)")


@dataclass(frozen=True)
class Instruction:
    """One line of a program."""

    name: str
    type: str
    """The type and layout of the result. Several results are in parentheses."""
    op: str
    operands: tuple[str, ...]
    arguments: str
    """The text between the parentheses."""
    attributes: str
    """The text after the parentheses."""
    is_root: bool

    def attribute(self, pattern: str) -> str | None:
        """Returns what the first group of `pattern` matches in the attributes, or None."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    @property
    def called(self) -> list[str]:
        """Names of the computations that the instruction runs once."""
        pattern = r"(?:calls|to_apply)=\{?%?([\w.\-]+)"
        return re.findall(pattern, self.attributes)


@dataclass(frozen=True)
class Program:
    """An XLA program: maps the name of a computation to its instructions, by name and in order."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


def parse(text: str) -> Program:
    """Parses the text of a program, which `jax.stages.Compiled.as_text` returns."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if not line.startswith(" ") and (head := _COMPUTATION.match(line)):
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        # The text of a TPU kernel contains lines, such as "}", that are not instructions.
        elif current is not None and (found := _INSTRUCTION.match(line)):
            root, name, type_, op, rest = found.groups()
            end = _closing_parenthesis(rest)
            operands = tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
            current[name] = Instruction(
                name, type_, op, operands, rest[:end], rest[end + 1 :], bool(root)
            )
    return Program(computations, entry)


def root(computation: dict[str, Instruction]) -> Instruction:
    """Returns the instruction whose result is the result of the computation."""
    return next(one for one in computation.values() if one.is_root)


def num_bytes(type_: str, *, in_memory: bool = False) -> int:
    """Returns the bytes of all arrays in an HLO type; `in_memory` skips on-chip arrays."""
    return sum(
        SIZES.get(dtype, 0) * math.prod(_sizes(shape))
        for dtype, shape, layout in _ARRAY.findall(type_)
        if not (in_memory and _ON_CHIP.search(layout))
    )


def dtypes(type_: str) -> list[str]:
    """Returns the sorted dtypes of all arrays in an HLO type."""
    return sorted({dtype for dtype, _, _ in _ARRAY.findall(type_)})


def group_size(instruction: Instruction) -> int:
    """Returns the number of devices in each group that a collective connects."""
    if found := instruction.attribute(r"replica_groups=\{\{([\d,]+)\}"):
        return len(found.split(","))
    if found := instruction.attribute(r"replica_groups=\[([\d,]+)\]<="):
        return int(found.split(",")[-1])
    found = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", instruction.attributes)
    if not found:
        return 1
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found[2]))


def num_slices(instruction: Instruction) -> int:
    """Returns the number of slices that exchange data, for a transfer between slices of TPUs.

    The attribute names slices and devices, such as {1,2}x{0:3} or {1:4}x{0:15}.
    """
    slices = instruction.attribute(r'_xla_megascale_target="\{([\d,:]+)\}') or "0"
    ranges = [[int(end) for end in part.split(":")] for part in slices.split(",")]
    return sum(part[-1] - part[0] + 1 for part in ranges)


def trip_count(program: Program, loop: Instruction) -> int | None:
    """Returns how often a loop runs its body, or None if the program's text does not tell."""
    if known := loop.attribute(r'known_trip_count":\{"n":"(\d+)"'):
        return int(known)
    condition = program.computations[loop.attribute(r"condition=%?([\w.\-]+)") or ""]
    body = program.computations[loop.attribute(r"body=%?([\w.\-]+)") or ""]
    constants = _integers(condition)
    compared = root(condition).operands
    bounds = [constants[name] for name in compared if name in constants]
    if not bounds:
        return max(1, *constants.values()) if len(constants) == 1 else None
    # A loop over slices of a matrix product may advance by two.
    counter, step = condition.get(compared[0]), 1
    if counter and counter.op == "get-tuple-element":
        index = int(counter.attribute(r"index=(\d+)") or 0)
        result = root(body)
        if result.op == "tuple" and index < len(result.operands):
            advance = body.get(result.operands[index])
            if advance and advance.op == "add":
                steps = _integers(body)
                step = next((steps[o] for o in advance.operands if o in steps), 1)
    return max(1, -(-bounds[0] // max(step, 1)))


def is_kernel(instruction: Instruction) -> bool:
    """Returns whether the instruction calls a TPU kernel that is written by hand (Pallas)."""
    return instruction.op == "custom-call" and "tpu_custom_call" in instruction.attributes


def kernel_flops(computation: dict[str, Instruction], kernel: Instruction) -> float | None:
    """Returns the FLOPs of the matrix products in a kernel; None if the kernel is not known.

    The first two operands of rank 4 are the queries and the keys, [batch, heads, length, head_dim].
    """
    number = next((n for name, n in KERNEL_PRODUCTS.items() if kernel.name.startswith(name)), None)
    shapes = [_shape(computation[name].type) for name in kernel.operands]
    arrays = [shape for shape in shapes if len(shape) == 4]
    if number is None or len(arrays) < 2:
        return None
    queries, keys = arrays[:2]
    return number * 2.0 * math.prod(queries) * keys[2]


def flops(computation: dict[str, Instruction], instruction: Instruction) -> float:
    """Returns the FLOPs of a matrix product, `dot` or `convolution`; 0 for other instructions."""
    if instruction.op not in ("dot", "convolution"):
        return 0.0
    left, right = (_shape(computation[name].type) for name in instruction.operands[:2])
    result = _shape(instruction.type)
    if instruction.op == "dot":
        summed = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        return 2.0 * math.prod(result) * math.prod(left[int(d)] for d in summed.split(",") if d)
    labels = instruction.attribute(r"dim_labels=(\S+?)(?:,|$)") or "bf_io->bf"
    of_left, of_right, of_result = re.split("_|->", labels)
    total = 2.0 * result[of_result.index("b")] * result[of_result.index("f")]
    total *= right[of_right.index("i")]
    window = instruction.attribute(r"window=\{([^}]*)\}") or ""
    given = dict(part.split("=") for part in window.split())
    rank = len(given["size"].split("x")) if given else 0
    columns = [
        given[name].split("x") if name in given else [WINDOW[name]] * rank for name in WINDOW
    ]
    for dimension, column in enumerate(zip(*columns, strict=True)):
        length = left[of_left.index(str(dimension))]
        results = result[of_result.index(str(dimension))]
        total *= _window_products(length, results, *(int(one.split("_")[0]) for one in column))
    return total


@functools.lru_cache
def _window_products(
    length: int, results: int, size: int, stride: int, padding: int, spread: int, dilation: int
) -> int:
    """Counts the products along a dimension of a convolution. Products with padding do not count.

    For a batch dimension, XLA may use windows with one element of the input; the rest is padding.
    """
    places = np.arange(results)[:, None] * stride + np.arange(size) * dilation - padding
    inside = (places >= 0) & (places <= (length - 1) * spread)
    return int((inside & (places % spread == 0)).sum())


def _shape(type_: str) -> list[int]:
    found = _ARRAY.search(type_)
    return _sizes(found[2]) if found else []


def _sizes(shape: str) -> list[int]:
    return [int(size) for size in shape.split(",") if size]


def _integers(computation: dict[str, Instruction]) -> dict[str, int]:
    return {
        one.name: int(one.arguments)
        for one in computation.values()
        if one.op == "constant" and re.fullmatch(r"-?\d+", one.arguments)
    }


def _closing_parenthesis(text: str) -> int:
    depth = 1
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
    return len(text)
