"""Reading the text of a compiled program. `tpu_scan.hlo` is cut from a program for v5e."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bert_jax.planning import hlo, roofline
from bert_jax.planning.topology import CHIPS

CHIP = CHIPS["v5e"]
ACTIVATIONS = 8 * 512 * 768  # elements
KERNEL = 768 * 768


@pytest.fixture(scope="module")
def program():
    return hlo.parse(Path(__file__).with_name("tpu_scan.hlo").read_text())


def test_a_program_is_its_computations(program):
    assert program.entry == "main.1_spmd"
    assert set(program.computations) == {
        *("fused_computation.1", "fused_computation.2", "body.1", "condition.1"),
        *("all-reduce-scatter", "main.1_spmd"),
    }
    # The text of a kernel has lines that look like the end of a computation.
    assert hlo.root(program.computations[program.entry]).op == "tuple"
    fusion = program.computations["body.1"]["fusion.2"]
    assert fusion.operands == ("get-tuple-element.2", "get-tuple-element.3", "get-tuple-element.1")
    assert fusion.called == ["fused_computation.2"]


def test_bytes_of_a_type_count_every_array_and_may_leave_out_those_on_the_chip():
    assert hlo.num_bytes("f32[768,768]{1,0:T(8,128)}") == 4 * KERNEL
    assert hlo.num_bytes("(s32[]{:T(128)}, bf16[8,2]{1,0:T(8,128)(2,1)}, pred[3]{0})") == 4 + 32 + 3
    on_chip = "(f32[8]{0:T(128)S(1)}, f32[4]{0:T(128)})"
    assert hlo.num_bytes(on_chip) == 48
    assert hlo.num_bytes(on_chip, in_memory=True) == 16


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", 4),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}", 4),
        ("source_target_pairs={{0,1},{1,0}}", 1),
    ],
)
def test_the_size_of_a_group_is_read_in_every_notation(groups, size):
    text = (
        f"ENTRY %e (p: f32[8]) -> f32[8] {{\n  ROOT %a = f32[8]{{0}} all-reduce(%p), {groups}\n}}"
    )
    assert hlo.group_size(hlo.root(hlo.parse(text).computations["e"])) == size


@pytest.mark.parametrize(
    ("step", "known", "trips"), [(1, "", 12), (2, "", 6), (1, '{"known_trip_count":{"n":"5"}}', 5)]
)
def test_a_loop_runs_from_zero_to_its_bound(step, known, trips):
    text = Path(__file__).with_name("tpu_scan.hlo").read_text()
    text = text.replace(
        "%constant.2 = s32[]{:T(128)} constant(1)", f"%constant.2 = s32[] constant({step})"
    )
    text = text.replace(
        "body=%body.1,", f"body=%body.1, backend_config={known}," if known else "body=%body.1,"
    )
    program = hlo.parse(text)
    assert hlo.trip_count(program, program.computations[program.entry]["while.1"]) == trips


def test_a_loop_of_unknown_length_and_an_unknown_kernel_are_named():
    text = Path(__file__).with_name("tpu_scan.hlo").read_text()
    assert roofline.totals(hlo.parse(text), CHIP).not_counted == [
        "FLOPs of the kernel custom-call.1"
    ]
    # The bound comes from outside the loop.
    text = text.replace(
        "%constant.3 = s32[]{:T(128)} constant(12)", "%constant.3 = s32[] negate(%x)"
    )
    totals = roofline.totals(hlo.parse(text), CHIP)
    assert totals.not_counted[0] == "iterations of while.1 after the first"
    assert totals.flops == 2 * ACTIVATIONS * 768


@pytest.mark.parametrize(("kernel", "products"), [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_flops_of_the_kernels_of_attention(kernel, products):
    """The types of the operands are from a program for v5e: block indices, then arrays."""
    array = "bf16[32,12,512,64]{3,2,1,0:T(8,128)(2,1)}"
    text = (
        f"ENTRY %e (i: s8[1,1,1], a: bf16[32,12,512,64]) -> bf16[32,12,512,64] {{\n"
        f"  %i = s8[1,1,1]{{2,1,0}} parameter(0)\n  %a = {array} parameter(1)\n"
        f"  ROOT %splash_mha_{kernel}_segmented_no_residuals.2 = {array} custom-call(%i, %i, %a, "
        '%a, %a), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={\n}'
    )
    totals = roofline.totals(hlo.parse(text), CHIP)
    assert totals.flops == products * 2 * 32 * 12 * 512 * 512 * 64
    assert not totals.not_counted


def convolution(left: str, right: str, result: str, attributes: str) -> float:
    text = (
        f"ENTRY %e (a: {left}, b: {right}) -> {result} {{\n  %a = {left}{{0}} parameter(0)\n"
        f"  %b = {right}{{0}} parameter(1)\n"
        f"  ROOT %c = {result}{{0}} convolution(%a, %b), {attributes}\n}}"
    )
    program = hlo.parse(text)
    return hlo.flops(program.computations["e"], hlo.root(program.computations["e"]))


def test_flops_of_the_convolutions_as_which_a_tpu_writes_matrix_products():
    """All are from programs for v5e. Windows over batch dimensions hold one element each."""
    assert (
        convolution(
            "bf16[64,2,128,64]",
            "bf16[64,2,128,64]",
            "f32[64,2,128,128]",
            "window={size=64x2 stride=63x1 lhs_dilate=64x2}, dim_labels=01bf_01oi->01bf",
        )
        == 2 * 64 * 2 * 128 * 128 * 64
    )
    assert (
        convolution(
            "bf16[64,2,128,64]",
            "bf16[64,2,128,128]",
            "bf16[64,2,128,64]",
            "window={size=64x2 stride=64x2 pad=63_63x1_1 lhs_dilate=63x1 rhs_reversal=1x1}, "
            "dim_labels=01fb_01oi->01bf",
        )
        == 2 * 64 * 2 * 64 * 128 * 128
    )
    assert (
        convolution(
            "bf16[64,128,2,64]",
            "bf16[2,64,128,1]",
            "f32[64,128,128,1]",
            "window={size=1x2}, dim_labels=0b1f_1io0->0bf1",
        )
        == 2 * 64 * 128 * 128 * 128
    )
    assert convolution("f32[64,768]", "f32[768,2]", "f32[64,2]", "dim_labels=bf_io->bf") == (
        2 * 64 * 768 * 2
    )


def test_flops_of_the_program_of_a_matrix_product_on_this_machine():
    """The program is compiled for the CPU. A loop runs its body three times."""

    def work(x, w):
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y @ w), x)

    arguments = (jnp.zeros((32, 64)), jnp.zeros((64, 64)))
    text = jax.jit(work).lower(*arguments).compile().as_text()
    program = hlo.parse(text)
    assert roofline.totals(program, CHIP).flops == 3 * 2 * 32 * 64 * 64


def test_totals_count_a_loop_as_often_as_it_runs_and_a_slice_as_a_slice(program):
    totals = roofline.totals(program, CHIP)
    assert totals.flops == 12 * 2 * ACTIVATIONS * 768
    # A turn reads the activations, one kernel of twelve and the counter, and writes activations and
    # counter. The copy reads only, because its result stays on the chip.
    turn = 2 * (2 * ACTIVATIONS + KERNEL) + 4
    counter, copy, scatter, custom = 8, 4 * KERNEL, 4 * 96 * 768, 4 * KERNEL + 32
    assert totals.memory_bytes == 12 * (turn + counter) + copy + scatter + custom
    assert totals.matrix_seconds == totals.flops / CHIP.flops
    assert totals.memory_seconds == totals.memory_bytes / CHIP.memory_bandwidth
    assert totals.roofline_seconds >= max(totals.matrix_seconds, totals.memory_seconds)


def test_collectives_have_payload_and_wire_bytes(program):
    found = {
        (one.kind, one.dtype): (one.group, one.count, one.payload_bytes, one.wire_bytes)
        for one in roofline.totals(program, CHIP).collectives
    }
    reduced, scattered = 4 * (768 + KERNEL), 4 * KERNEL
    assert found == {
        ("all-reduce", "f32"): (8, 1, reduced, reduced * 2 * 7 / 8),
        ("reduce-scatter", "f32"): (8, 1, scattered, scattered * 7 / 8),
        ("all-reduce", "integers"): (8, 1, 4, 7),
    }


@pytest.mark.parametrize(("target", "slices"), [("{1,2}x{0:3}", 2), ("{1:4}x{0:15}", 4)])
def test_a_transfer_between_slices_has_its_kind_and_the_number_of_slices(target, slices):
    """The text is from a program for two slices of v5e."""
    attributes = (
        'channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_target="'
        f'{target}",_xla_megascale_transfer_type="ALL_REDUCE"}}'
    )
    text = (
        "ENTRY %e (p: f32[2,8,128]) -> token[] {\n  %p = f32[2,8,128]{2,1,0} parameter(0)\n"
        "  %t = token[] after-all()\n"
        f"  %s = (f32[2,8,128]{{2,1,0}}, u32[], token[]) send(%p, %t), {attributes}\n"
        f"  %r = (f32[2,8,128]{{2,1,0}}, u32[], token[]) recv(%t), {attributes}\n"
        "  ROOT %d = token[] send-done(%s)\n}"
    )
    totals = roofline.totals(hlo.parse(text), CHIP)
    (one,) = totals.collectives
    assert (one.kind, one.group, one.between_slices) == ("all-reduce", slices, True)
    sent = 2 * (slices - 1) / slices * 4 * 2 * 8 * 128
    assert totals.slice_bytes == totals.wire_bytes == sent


def test_an_asynchronous_slice_reads_only_the_slice():
    text = (
        "ENTRY %e (p: f32[64]) -> f32[8] {\n  %p = f32[64]{0} parameter(0)\n"
        "  %s = ((f32[64]{0}), f32[8]{0:S(1)}) slice-start(%p), slice={[0:8]}\n"
        "  ROOT %d = f32[8]{0:S(1)} slice-done(%s)\n}"
    )
    assert roofline.totals(hlo.parse(text), CHIP).memory_bytes == 32


@pytest.mark.parametrize("fused", [True, False])
def test_a_collective_that_is_written_into_two_fusions_counts_once(fused):
    gather = "f32[64]{0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8]"
    call = "f32[64]{0} fusion(%p), kind=kCustom, calls=%" if fused else ""
    text = "".join(
        f"%{name} (p: f32[8]) -> f32[64] {{\n  %p = f32[8]{{0}} parameter(0)\n"
        f"  ROOT %g = {gather}\n}}\n"
        for name in ("f", "g")
    )
    text += "ENTRY %e (p: f32[8]) -> f32[64] {\n  %p = f32[8]{0} parameter(0)\n"
    text += f"  %a = {call + 'f' if fused else gather}\n"
    text += f"  ROOT %b = {call + 'g' if fused else gather}\n}}"
    (one,) = roofline.totals(hlo.parse(text), CHIP).collectives
    assert one.count == (1 if fused else 2)


def test_two_fusions_with_collectives_of_different_sizes_share_a_channel():
    """XLA combines reduce-scatters and gives all combined ones channel 1."""
    text = "".join(
        f"%all-reduce-scatter.{size} (p: f32[{size}]) -> f32[{size}] {{\n"
        f"  %p = f32[{size}]{{0}} parameter(0)\n  ROOT %r = f32[{size}]{{0}} all-reduce(%p), "
        "channel_id=1, replica_groups=[1,8]<=[8]\n}\n"
        for size in (64, 128)
    )
    text += "ENTRY %e (p: f32[64], q: f32[128]) -> f32[128] {\n  %p = f32[64]{0} parameter(0)\n"
    text += "  %q = f32[128]{0} parameter(1)\n"
    text += "  %a = f32[64]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.64\n"
    text += "  ROOT %b = f32[128]{0} fusion(%q), kind=kCustom, calls=%all-reduce-scatter.128\n}"
    (one,) = roofline.totals(hlo.parse(text), CHIP).collectives
    assert (one.kind, one.count, one.payload_bytes) == ("reduce-scatter", 2, 4 * (64 + 128))


@pytest.mark.parametrize(
    ("line", "payload", "wire"),
    [
        ("(f32[8]{0}, f32[64]{0}) all-gather-start(%p), replica_groups=[1,8]<=[8]", 256, 224),
        (
            "(f32[8]{0}, f32[8]{0}) collective-permute-start(%p), source_target_pairs={{0,1}}",
            32,
            32,
        ),
        ("f32[8]{0} reduce-scatter(%p), replica_groups=[1,8]<=[8]", 256, 224),
        ("((f32[64]{0}), f32[8]{0}) reduce-scatter-start(%p), replica_groups=[1,8]<=[8]", 256, 224),
        ("((f32[64]{0}), f32[64]{0}) all-to-all-start(%p), replica_groups=[1,8]<=[8]", 256, 224),
        ("f32[64]{0} all-reduce-start(%p), replica_groups=[1,8]<=[8]", 256, 448),
    ],
)
def test_asynchronous_collectives_count_once_and_as_a_whole(line, payload, wire):
    name = line.split("(%p")[0].split()[-1].removesuffix("-start")
    text = (
        "ENTRY %e (p: f32[8]) -> f32[8] {\n  %p = f32[8]{0} parameter(0)\n"
        f"  %a = {line}, channel_id=1\n  ROOT %d = f32[8]{{0}} {name}-done(%a)\n}}"
    )
    (one,) = roofline.totals(hlo.parse(text), CHIP).collectives
    assert (one.kind, one.count, one.payload_bytes, one.wire_bytes) == (name, 1, payload, wire)
