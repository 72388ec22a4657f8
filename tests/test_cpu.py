"""Code that only CPUs need: keeping freed memory, and the operand order of a product."""

import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from bert_jax import config
from bert_jax.benchmarking.batches import random_batch
from bert_jax.command import load
from bert_jax.models.layers import product
from bert_jax.sharding import make_mesh
from bert_jax.training.build import assemble
from bert_jax.training.experiment import phases

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")

FAULTS = """
import resource
from bert_jax import cpu, environment
environment.configure_jax()
cpu.keep_freed_memory()
import jax, jax.numpy as jnp
# 32 MiB that live only within a call: XLA cannot fuse a Fourier transform away. With the rest of
# the process they stay below cpu.SMALL_REST, so the thread returns nothing between two calls.
work = jax.jit(lambda x: abs(jnp.fft.rfft(jnp.outer(x, x))).sum())
x = jnp.arange(2048.0)
for _ in range(2):
    work(x).block_until_ready()
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# A call may still grow the heap, if a small block lies in the memory that an earlier call freed.
print(min(faults))
"""

# Sixteen blocks, each 1 MiB larger than the one before. sbrk takes a page behind each of them, so
# glibc cannot extend freed memory and takes new memory for the next block.
KEPT = """
import ctypes, time
from bert_jax import cpu
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.sbrk.argtypes = [ctypes.c_ssize_t]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
cpu.keep_freed_memory()
start = cpu._anonymous_bytes()
for number in range(16):
    size = (64 + number) * 2**20
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
    libc.sbrk(4096)
deadline = time.monotonic() + SECONDS
while cpu._anonymous_bytes() - start > cpu.SMALL_REST and time.monotonic() < deadline:
    time.sleep(0.05)
print(cpu._anonymous_bytes() - start)
"""

# A block of 320 MiB in use. A second block of the same size is freed: more than cpu.SMALL_REST, and
# less than the memory that was in use at once. Two checks later it must still be there.
IN_USE = """
import ctypes, time
from bert_jax import cpu
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
cpu.keep_freed_memory()
size = cpu.SMALL_REST * 5 // 4
blocks = [libc.malloc(size) for _ in range(2)]
for block in blocks:
    libc.memset(block, 1, size)
time.sleep(2 * cpu.CHECK_SECONDS)
before = cpu._anonymous_bytes()
libc.free(blocks[1])
time.sleep(2 * cpu.CHECK_SECONDS)
print(before - cpu._anonymous_bytes())
"""


def numbers_of(code):
    """Runs code in another process, because mallopt cannot be undone. Returns what it prints."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [int(number) for number in result.stdout.split()]


@needs_glibc
def test_temporaries_of_a_call_reuse_their_pages():
    (faults,) = numbers_of(FAULTS)
    # Without the function a call takes 8,200 pages; a few go to small objects of Python and jax.
    assert faults < 1000


@needs_glibc
def test_freed_memory_is_returned_above_the_bound():
    (kept,) = numbers_of(KEPT.replace("SECONDS", "60"))
    assert kept <= 256 * 2**20
    unbounded = KEPT.replace("SECONDS", "1").replace(
        "cpu.keep", "cpu._bound_kept_memory = lambda libc: None; cpu.keep"
    )
    (kept,) = numbers_of(unbounded)
    assert kept > 1000 * 2**20  # all blocks: without the thread nothing returns them


@needs_glibc
def test_freed_memory_is_kept_up_to_the_largest_amount_in_use():
    (returned,) = numbers_of(IN_USE)
    assert returned < 64 * 2**20


@needs_glibc
def test_a_choice_of_the_user_is_kept(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    (threads,) = numbers_of(
        "import threading; from bert_jax import cpu; cpu.keep_freed_memory(); "
        "print(threading.active_count())"
    )
    assert threads == 1


@pytest.fixture(scope="module")
def traced_update():
    """The update of one layer with hidden size 256, traced for every platform."""
    experiment = config.override(
        load("experiments/quickstart.py"), {"mesh.data": "1", "model.num_layers": "1"}
    )
    mesh = make_mesh(experiment.mesh)
    assembly = assemble(phases(experiment)[0], mesh)
    state = nn.unbox(jax.eval_shape(assembly.initialize))
    with jax.set_mesh(mesh):
        return assembly.update.func.trace(state, random_batch(experiment), seed=0)


def kernel_gradients(text: str) -> list[str]:
    """Result shapes of the products that sum over rows and positions: kernels' gradients."""
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    return [
        line.rpartition("tensor<")[2].rstrip(">")
        for line in products
        if "contracting_dims = [0, 1] x [0, 1]" in line
    ]


def test_a_cpu_program_puts_the_narrower_operand_first(traced_update):
    text = traced_update.lower(lowering_platforms=("cpu",)).as_text()
    # One of attention, on every platform, and those of feed-forward and next-sentence head.
    assert text.count("stablehlo.optimization_barrier") == 3
    found = kernel_gradients(text)
    # Both kernels of the feed-forward block, and the next-sentence head's.
    assert found.count("256x1024xf32") == 2 and "1024x256xf32" not in found
    assert "2x256xf32" in found


@pytest.mark.parametrize("name", ["tpu", "cuda"])
def test_the_program_of_an_accelerator_has_no_cpu_form(traced_update, name):
    text = traced_update.lower(lowering_platforms=(name,)).as_text()
    assert text.count("stablehlo.optimization_barrier") == 1  # of attention
    found = kernel_gradients(text)
    # Each kernel's gradient is computed in the kernel's own order of dimensions.
    assert found.count("256x1024xf32") == found.count("1024x256xf32") == 1
    assert "2x256xf32" not in found


def test_a_bfloat16_gradient_of_a_transposed_kernel_can_be_computed():
    """The masked-token head multiplies with the transposed token table."""
    x, table = jnp.ones((1, 60, 32), jnp.bfloat16), jnp.ones((128, 32))
    gradient = jax.jit(jax.grad(lambda table: product(x, table.T).sum()))(table)
    assert gradient.dtype == jnp.float32 and (gradient == 60).all()
