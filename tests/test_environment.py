"""What `environment` sets before jax starts."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from bert_jax import environment
environment.configure_jax()
environment.keep_freed_memory()
import jax, jax.numpy as jnp
# 64 MiB that live only within a call: XLA cannot fuse a Fourier transform away.
work = jax.jit(lambda x: abs(jnp.fft.rfft(jnp.outer(x, x))).sum())
x = jnp.arange(4096.0)
for _ in range(3):
    work(x).block_until_ready()
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# One call may still grow the heap: a small block can lie in what the call before has freed.
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_temporaries_of_a_call_reuse_their_pages():
    result = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=120
    )
    # 64 MiB are 16,384 pages. A few pages go to the small objects of Python and jax.
    assert int(result.stdout) < 2000
