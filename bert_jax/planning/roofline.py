"""Adds up what a compiled program does in one update: FLOPs, memory traffic, collectives.

The roofline time of an instruction is the larger of FLOPs / peak and bytes / memory bandwidth.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from bert_jax.planning import hlo
from bert_jax.planning.hlo import Instruction, Program
from bert_jax.planning.topology import Chip

WIRE: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
    "collective-broadcast": lambda n: 1.0,
}
"""Bytes that a device sends for each byte of the whole array, with a ring of n devices."""

FREE = frozenset(
    ("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all")
    + ("partition-id", "replica-id", "iota", "opt-barrier", "recv")
)
"""Instructions without memory traffic."""


@dataclass
class Collective:
    """The number and bytes of all collectives of one kind, element type and group size."""

    kind: str
    dtype: str
    group: int
    """Number of devices that exchange data; of slices if `between_slices`."""
    between_slices: bool = False
    """Whether the data go to other slices over the slow network."""
    count: float = 0
    payload_bytes: float = 0
    """Bytes of the whole arrays."""
    wire_bytes: float = 0
    """Bytes that a device sends."""


@dataclass
class Totals:
    """Sums of the work of one device in one update."""

    flops: float = 0
    memory_bytes: float = 0
    matrix_seconds: float = 0
    memory_seconds: float = 0
    roofline_seconds: float = 0
    """Sum of the roofline times of all instructions, without collectives."""
    collectives: list[Collective] = field(default_factory=list)
    not_counted: list[str] = field(default_factory=list)
    """Descriptions of work that the program's text does not tell."""

    @property
    def wire_bytes(self) -> float:
        return sum(one.wire_bytes for one in self.collectives)

    @property
    def slice_bytes(self) -> float:
        """The part of `wire_bytes` that goes to other slices."""
        return sum(one.wire_bytes for one in self.collectives if one.between_slices)


class _Fusion(NamedTuple):
    reads: dict[int, int | None]
    """Bytes that are read of each parameter, by its number; None means the whole parameter."""
    writes: int | None
    """Bytes that are written; None means the whole result."""
    flops: float


def _is_free(one: Instruction) -> bool:
    allocates = 'custom_call_target="AllocateBuffer"' in one.attributes  # and writes nothing
    return one.op in FREE or one.op.endswith("-done") or allocates


def totals(program: Program, chip: Chip) -> Totals:
    """Returns sums over all instructions. The body of a loop is counted once per iteration."""
    walk = _Walk(program, chip)
    walk.computation(program.entry, 1)
    walk.totals.collectives = sorted(walk.collectives.values(), key=lambda c: -c.wire_bytes)
    return walk.totals


class _Walk:
    def __init__(self, program: Program, chip: Chip):
        self.program, self.chip = program, chip
        self.totals = Totals()
        self.collectives: dict[tuple[str, str, int, bool], Collective] = {}
        self.fusions: dict[str, _Fusion] = {}
        self.channels: set[tuple[str | None, int]] = set()

    def computation(self, name: str, times: float) -> None:
        instructions = self.program.computations.get(name, {})
        for one in instructions.values():
            kind = one.op.removesuffix("-start")
            if one.op == "while":
                trips = hlo.trip_count(self.program, one)
                if trips is None:
                    self.totals.not_counted.append(f"iterations of {one.name} after the first")
                body = one.attribute(r"body=%?([\w.\-]+)") or ""
                self.computation(body, times * (trips or 1))
            elif one.op == "conditional":
                self.totals.not_counted.append(f"branches of {one.name}")
            elif one.op in ("call", "async-start"):
                for called in one.called:
                    self.computation(called, times)
            elif kind in WIRE:
                self.collective(one, kind, times)
            elif one.op == "send":  # the host sends the data to other slices
                self.between_slices(one, times)
            elif not _is_free(one):
                self.compute(instructions, one, times)

    def collective(self, one: Instruction, kind: str, times: float, scatter: bool = False) -> None:
        payload, group = float(hlo.num_bytes(one.type)), hlo.group_size(one)
        if one.op.endswith("-start") and kind != "all-reduce":  # the type has operand and result
            whole_and_part = kind in ("all-gather", "reduce-scatter")
            payload *= group / (group + 1) if whole_and_part else 0.5
        elif kind == "reduce-scatter":  # its type has this device's part
            payload *= group
        self.add(one, "reduce-scatter" if scatter else kind, group, False, payload, times)

    def between_slices(self, one: Instruction, times: float) -> None:
        kind = one.attribute(r'_xla_megascale_transfer_type="(\w+)"') or "collective-permute"
        kind = kind.lower().replace("_", "-")
        payload = float(hlo.num_bytes(one.type) - 4)  # the type has the data and a number
        self.add(one, kind, hlo.num_slices(one), True, payload, times)

    def add(
        self, one: Instruction, kind: str, group: int, slices: bool, payload: float, times: float
    ) -> None:
        numbers = [t for t in hlo.dtypes(one.type) if not t.startswith(("u", "s"))]
        key = (kind, "+".join(numbers) or "integers", group, slices)
        entry = self.collectives.setdefault(key, Collective(*key))
        entry.count += times
        entry.payload_bytes += times * payload
        entry.wire_bytes += times * payload * WIRE.get(kind, lambda n: 1.0)(group)

    def fused_collectives(self, computation: str, times: float) -> None:
        """Adds the collectives of a fusion. On TPU, its all-reduce can mean a reduce-scatter."""
        for one in self.program.computations[computation].values():
            kind = one.op.removesuffix("-start")
            if kind not in WIRE:
                continue
            # Several asynchronous fusions may contain one gather, which is counted once. Combined
            # collectives share a channel too, but their sizes differ.
            channel = (one.attribute(r"channel_id=(\d+)"), hlo.num_bytes(one.type))
            if channel not in self.channels:
                scatter = kind == "all-reduce" and "all-reduce-scatter" in computation
                self.collective(one, kind, times, scatter)
            self.channels |= {channel} if channel[0] else set()

    def compute(self, scope: dict[str, Instruction], one: Instruction, times: float) -> None:
        def whole(name: str) -> int:
            return hlo.num_bytes(scope[name].type, in_memory=True) if name in scope else 0

        result, flops = hlo.num_bytes(one.type, in_memory=True), 0.0
        if one.op == "fusion":
            self.fused_collectives(one.called[0], times)
            reads, writes, flops = self.fusion(one.called[0])
            traffic = result if writes is None else min(result, writes)
            for number, name in enumerate(one.operands):
                part = reads.get(number)
                traffic += whole(name) if part is None else min(part, whole(name))
        elif one.op == "copy-start":  # the type has the operand and the result
            traffic = result
        elif one.op == "slice-start":  # the type has both too, but only the slice is read
            traffic = hlo.num_bytes(one.type) - hlo.num_bytes(scope[one.operands[0]].type)
        elif one.op == "dynamic-slice":
            traffic = 2 * result
        elif one.op == "dynamic-update-slice":
            traffic = 2 * whole(one.operands[1])
        else:
            flops = self.flops(scope, one)
            traffic = result + sum(map(whole, one.operands))
        matrix, memory = flops / self.chip.flops, traffic / self.chip.memory_bandwidth
        total = self.totals
        total.flops += times * flops
        total.memory_bytes += times * traffic
        total.matrix_seconds += times * matrix
        total.memory_seconds += times * memory
        total.roofline_seconds += times * max(matrix, memory)

    def flops(self, scope: dict[str, Instruction], one: Instruction) -> float:
        if not hlo.is_kernel(one):
            return hlo.flops(scope, one)
        flops = hlo.kernel_flops(scope, one)
        if flops is None:
            self.totals.not_counted.append(f"FLOPs of the kernel {one.name}")
        return flops or 0.0

    def fusion(self, computation: str) -> _Fusion:
        """Returns traffic and FLOPs of a fusion. If an array is sliced, only the slice counts."""
        if computation not in self.fusions:
            scope = self.program.computations[computation]
            users = defaultdict(list)
            flops = 0.0
            for one in scope.values():
                flops += hlo.flops(scope, one)
                if one.op in ("fusion", "call"):
                    flops += sum(self.fusion(called).flops for called in one.called)
                for name in one.operands:
                    users[name].append(one)
            reads = {
                int(one.arguments): self.read(one, users)
                for one in scope.values()
                if one.op == "parameter"
            }
            writes = self.written(scope, hlo.root(scope))
            self.fusions[computation] = _Fusion(reads, writes, flops)
        return self.fusions[computation]

    def read(self, one: Instruction, users: dict[str, list[Instruction]]) -> int | None:
        total = 0
        for user in users[one.name]:
            if user.op == "dynamic-slice":
                part = hlo.num_bytes(user.type, in_memory=True)
            elif user.op == "dynamic-update-slice" and user.operands[0] == one.name:
                part = 0
            elif user.op in ("bitcast", "reshape", "copy", "convert") and not user.is_root:
                part = self.read(user, users)
            elif user.op == "fusion":
                part = self.fusion(user.called[0]).reads.get(user.operands.index(one.name))
                if part is None and self._only_moves(user.called[0]) and not user.is_root:
                    part = self.read(user, users)
            else:
                part = None
            if part is None:
                return None
            total += part
        return total

    def _only_moves(self, computation: str) -> bool:
        moves = {"parameter", "bitcast", "copy", "reshape", "convert"}
        return {one.op for one in self.program.computations[computation].values()} <= moves

    def written(self, scope: dict[str, Instruction], one: Instruction) -> int | None:
        if one.op == "dynamic-update-slice":
            return hlo.num_bytes(scope[one.operands[1]].type, in_memory=True)
        if one.op == "bitcast" and one.operands[0] in scope:
            return self.written(scope, scope[one.operands[0]])
        if one.op == "fusion":
            return self.fusion(one.called[0]).writes
        if one.op != "tuple":
            return None
        total = 0
        for part in (scope[name] for name in one.operands):
            written = self.written(scope, part)
            total += hlo.num_bytes(part.type, in_memory=True) if written is None else written
        return total
