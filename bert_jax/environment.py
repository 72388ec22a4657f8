"""Where a run runs: XLA flags and caches set before jax starts, and a record for provenance."""

import ctypes
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bert_jax.errors import ConfigError

FORMAT_VERSION = 1

XLA_FLAGS = {
    # 512-bit vectors are 1.3 to 1.9 times as fast as the default 256 on GELU and dropout where a
    # CPU has AVX-512; other backends ignore the flag.
    "--xla_cpu_prefer_vector_width": "512",
}
"""Flags for every backend: each ignores those of the others."""

ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")
"""Device files of GPUs and TPUs: where one is there, XLA:CPU is not what trains."""

# Of glibc's malloc.h; see man mallopt.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "bert-jax")


def configure_jax() -> None:
    """Merges XLA_FLAGS with the user's, whose values win, and turns on the compilation cache.

    Call it before jax is imported.
    """
    given = os.environ.get("XLA_FLAGS", "")
    ours = [f"{name}={value}" for name, value in XLA_FLAGS.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([*ours, given]).strip()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bert_jax" / "xla"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")


def keep_freed_memory() -> None:
    """Makes glibc reuse large blocks instead of returning them to the system, on a CPU.

    XLA:CPU allocates an update's temporaries anew each time, and the system clears 236,000 pages
    an update of BERT-mini at 32 x 128: 1.26 s without, 0.94 s with it (two cores of an AMD EPYC,
    `bert_jax.bench --experiment=experiments/bert.py:mini --set data.batch_size=32`). Call it
    before threads exist, for a thread's own arena cannot hold large blocks. What a process has
    freed stays its own, so this is for training, and a user's MALLOC_ or GLIBC_TUNABLES variables
    win.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    accelerated = any(map(os.path.exists, ACCELERATORS))
    if chosen or accelerated or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
        libc.mallopt(option, value)


def start_processes(
    coordinator: str | None, process_count: int | None, process_index: int | None, *, cluster: bool
) -> None:
    """Joins the processes of a run: those told, those of a Slurm job, or of a cluster.

    With `cluster` jax finds the others by itself, as on a Cloud TPU slice. A process on its own
    joins nothing. Call it before anything asks jax for devices.

    Raises:
      ConfigError: only some of the three are given, or the index is not below the count.
    """
    import jax

    told = (coordinator, process_count, process_index)
    if any(value is not None for value in told):
        if coordinator is None or process_count is None or process_index is None:
            raise ConfigError(
                "--coordinator, --process_count and --process_index belong together; "
                f"got {coordinator}, {process_count}, {process_index}"
            )
        if not 0 <= process_index < process_count:
            raise ConfigError(
                f"--process_index is {process_index}; accepted: 0 to {process_count - 1}, "
                "one less than --process_count"
            )
        jax.distributed.initialize(
            coordinator, process_count, process_index, local_device_ids=slurm_devices()
        )
    elif cluster or (int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in os.environ):
        jax.distributed.initialize(local_device_ids=slurm_devices())


def slurm_devices() -> list[int] | None:
    """All GPUs of the node where Slurm runs one task on it, None elsewhere.

    Told nothing, jax takes one GPU a task: that of the task's number on its node.
    """
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    gpus = os.environ.get("SLURM_GPUS_ON_NODE")
    alone = tasks == "1" or (tasks.startswith("1(") and "," not in tasks)
    return list(range(int(gpus))) if alone and gpus else None


def check_processes_agree(**facts: Any) -> None:
    """Compares what every process is about to do; all of them end where one differs.

    Raises:
      ConfigError: the facts of this process, where they are not those of all, or a fact is False.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(repr(facts).encode()).digest(), np.uint8)
    everyone = multihost_utils.process_allgather(digest)
    if (everyone != digest).any() or any(fact is False for fact in facts.values()):
        raise ConfigError(
            f"process {jax.process_index()} has {facts}, which is not so on all; accepted: the "
            "same command on every host, data and workdir on storage that all see"
        )


def describe() -> dict[str, Any]:
    """Returns commit, hash of uncommitted changes, versions, devices, XLA flags and command."""
    import jax

    source = Path(__file__).resolve().parent
    # Names of new files count too; their contents do not.
    changes = f"{_git(source, 'diff', 'HEAD') or ''}{_git(source, 'status', '--porcelain') or ''}"
    return {
        "format_version": FORMAT_VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": _git(source, "rev-parse", "HEAD"),
        "uncommitted_changes": hashlib.sha256(changes.encode()).hexdigest() if changes else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "malloc": {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "GLIBC_T"))},
    }


def describe_again(file: Path) -> dict[str, Any]:
    """Returns the description; what `file` held before, a run's earlier start, is `earlier`."""
    description = describe()
    if file.exists():
        before = json.loads(file.read_text())
        description["earlier"] = [*before.pop("earlier", []), before]
    return description


def _git(directory: Path, *arguments: str) -> str | None:
    """Output of git, or None where the package does not lie in a repository."""
    try:
        result = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
