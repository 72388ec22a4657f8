"""Tests of commands share these functions: checks, processes, ports and a limit on files."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import bert_jax

ROOT = Path(bert_jax.__file__).parents[1]


def xla_flags(*, devices: int) -> str:
    """Returns the XLA flags of a test that simulates devices.

    LLVM's optimizations are off: a small model then compiles in half the time. XLA's own passes
    over the program are the same.
    """
    return f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"


def assert_one_line(result: CompletedProcess[str], *said: str) -> None:
    """Checks for exit status 2 and a single line on stderr that contains each of `said`."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: "), result.stderr
    for part in said:
        assert part in result.stderr


def start_command(name: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Starts a command in a process of its own. `options` are those of `subprocess.Popen`."""
    return subprocess.Popen(
        [sys.executable, "-m", f"bert_jax.{name}", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options,
    )


def run_command(name: str, *arguments: object, **options: Any) -> CompletedProcess[str]:
    """Runs a command to its end."""
    process = start_command(name, *arguments, **options)
    output, errors = process.communicate(timeout=600)
    return CompletedProcess(process.args, process.returncode, output, errors)


def start_code(code: str, *, devices: int) -> subprocess.Popen:
    """Starts Python code in a process of its own, with simulated devices."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": xla_flags(devices=devices),
            "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",  # no restart, which needs -m
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    """Returns a port of this machine that no process uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Makes a write fail that would make a file longer, as a write to a full disk fails.

    A limit of the process needs no rights. Python ignores the signal that comes with it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
