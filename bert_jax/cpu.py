"""Optimizations for CPUs: the reuse of freed memory, and a matrix product.

Nothing here changes a program for a GPU or a TPU. An import of this module does not import jax,
because `keep_freed_memory` must run first.
"""

import ctypes
import os
import platform
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax.typing import DTypeLike
    from jaxtyping import Array, Float

ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")
"""Device files of GPUs and TPUs. If one of these files exists, freed memory is not kept."""

# From glibc's malloc.h; `man mallopt` describes them.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

TUNABLES = "glibc.malloc.tcache_count=0"
"""Turns off glibc's per-thread cache of freed memory. glibc reads this only at process start."""

SMALL_REST = 256 * 2**20
"""Number of freed bytes that a process may always keep."""

CHECK_SECONDS = 0.25


class MallocInfo(ctypes.Structure):
    """The struct that glibc's mallinfo2 returns: ten sizes. `uordblks` is the memory in use."""

    _fields_ = [
        ("before", ctypes.c_size_t * 7),
        ("uordblks", ctypes.c_size_t),
        ("after", ctypes.c_size_t * 2),
    ]


def keep_freed_memory() -> None:
    """Makes glibc reuse freed blocks, and bounds the freed memory that the process keeps.

    When an update starts, XLA:CPU allocates a block for temporaries, and it frees the block when
    the update ends. By default glibc returns the block to the system, which must clear the memory
    again for the next update. After a call of this function, glibc keeps the block.

    The kept memory can grow. glibc's per-thread cache leaves small pieces between the freed blocks.
    A new block then does not fit into the old place, and glibc takes more memory from the system.
    The process therefore restarts once with this cache off (`TUNABLES`). A thread limits the growth
    that remains: it returns all freed memory to the system when the freed memory exceeds both
    256 MiB and the largest memory ever in use.

    The table shows `bert_jax.bench --experiment=experiments/bert.py:mini --set data.batch_size=32`
    (845 MB of temporaries) on two busy cores, as means over the 12 to 16 updates of a process:

                                 CPU time per update  page faults   largest resident memory
      glibc's default            2.34 s               226,000       1.5 GB
      bounded growth, cache on   2.26 s               118,000       2.4 GB
      bounded growth, cache off  1.68 s                20,500       1.5 GB

    Commands that train call this function first. It does nothing if the machine has an accelerator,
    if the user has set a MALLOC_ or GLIBC_TUNABLES variable, or if glibc is older than 2.33.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    restarted = os.environ.get("GLIBC_TUNABLES") == TUNABLES
    accelerated = any(map(os.path.exists, ACCELERATORS))
    if (chosen and not restarted) or accelerated or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return
    if not restarted:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    libc.mallinfo2.restype = MallocInfo
    for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
        libc.mallopt(option, value)
    threading.Thread(target=_bound_kept_memory, args=(libc,), daemon=True).start()


def _bound_kept_memory(libc: ctypes.CDLL) -> None:
    """Returns freed memory to the system when it exceeds 256 MiB and the most memory ever used."""
    most_used = 0
    while True:
        used = libc.mallinfo2().uordblks
        most_used = max(most_used, used)
        if _anonymous_bytes() - used > max(most_used, SMALL_REST):
            libc.malloc_trim(0)
        time.sleep(CHECK_SECONDS)


def _anonymous_bytes() -> int:
    """Returns the resident memory of this process in bytes, without mapped files."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def kernel_gradient(
    x: "Float[Array, 'batch length inputs']",
    gradient: "Float[Array, 'batch length outputs']",
    dtype: "DTypeLike",
) -> "Float[Array, 'inputs outputs']":
    """Returns the gradient of a dense layer's kernel in `dtype`, in the platform's fastest form.

    The gradient is the product of `x` and `gradient`. XLA:CPU transposes the first operand into a
    copy, and computes the operand (such as a GELU) while it copies. This takes 17 ms for a GELU of
    2048 x 1024, but 2 ms for an operand of 2048 x 256. On a CPU the operand with fewer columns is
    therefore first. A barrier keeps XLA from swapping the operands back. It also keeps XLA from
    combining a product of bfloat16 with a transpose of its result, which a CPU cannot run.
    """
    import jax
    import jax.numpy as jnp

    def plain(x: "Array", gradient: "Array") -> "Array":
        return jnp.einsum("bsi,bso->io", x, gradient, preferred_element_type=dtype)

    def narrow_first(x: "Array", gradient: "Array") -> "Array":
        if narrow:
            return jax.lax.optimization_barrier(plain(x, gradient))
        return jax.lax.optimization_barrier(plain(gradient, x)).T

    narrow = x.shape[-1] <= gradient.shape[-1]
    if narrow and x.dtype == jnp.float32:
        return plain(x, gradient)
    return jax.lax.platform_dependent(x, gradient, cpu=narrow_first, default=plain)
