"""The environment of a run: jax's settings, the terminal, and a record of code and devices."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from rich.console import Console
from rich.progress import Progress, TaskID, TransferSpeedColumn

from bert_jax import xla_flags
from bert_jax.config.paths import cache_directory
from bert_jax.files import read_json_if_whole

FORMAT_VERSION = 1

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "bert-jax")


def configure_jax() -> None:
    """Adds this package's XLA flags and turns on the compilation cache.

    The user's own flags and cache directory take precedence. Commands call this before jax is
    imported, and `load_run` calls it when jax may be in use. XLA reads its flags when jax starts
    its devices. If that has happened without the flags, they cannot be added, and a warning says
    so once.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_directory() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    if "jax" not in sys.modules:
        xla_flags.set_variables()
        return
    import jax
    from jax._src import xla_bridge  # jax has no public way to ask whether its devices are started

    if jax.config.values["jax_compilation_cache_dir"] is None:  # jax was imported without it
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    if not xla_bridge.backends_are_initialized():
        xla_flags.set_variables()
    elif missing := xla_flags.missing("XLA_FLAGS", os.environ.get("XLA_FLAGS", "")):
        _warn_of_missing_flags(" ".join(missing))


@cache
def _warn_of_missing_flags(flags: str) -> None:
    """Warns once that XLA runs without `flags`."""
    warnings.warn(
        f"jax started before load_run was called, so XLA runs without {flags}, and models may be "
        f"slower; call load_run before other functions of jax, or set XLA_FLAGS={flags}",
        stacklevel=4,
    )


def plain_console(*, stderr: bool = False) -> Console:
    """Returns a rich console that prints every text as it is.

    By default, rich reads brackets such as `[red]` as markup and `:name:` as an emoji. A path may
    contain both.
    """
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


Report = Callable[[str, int, int], None]
"""Notes how far a stage is: `report(stage, done, total)`, such as 3 of 10 units of any size."""

SECONDS = 10.0
"""Least time between two lines of `progress`. In a long stage, it is a twentieth of the time."""


@contextmanager
def progress() -> Iterator[Report]:
    """Shows a bar for each stage on a terminal. Elsewhere, lines on stderr say how far it is."""
    console, bars = plain_console(stderr=True), dict[str, TaskID]()
    state, stop, begun = "", threading.Event(), time.monotonic()
    columns = (*Progress.get_default_columns(), TransferSpeedColumn())

    def say() -> None:
        while not stop.wait(max(SECONDS, (time.monotonic() - begun) / 20)):
            if state:
                print(state, file=sys.stderr, flush=True)

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:

        def report(stage: str, done: int, total: int) -> None:
            nonlocal state
            state = f"{stage}: {done / max(1, total):.0%}"
            if stage not in bars:
                bars[stage] = bar.add_task(stage, total=total, completed=done)
            bar.update(bars[stage], completed=done)

        if not console.is_terminal:
            threading.Thread(target=say, daemon=True).start()
        try:
            yield report
        finally:
            stop.set()


def describe() -> dict[str, Any]:
    """Describes the code (commit, uncommitted changes), versions, devices, settings and command."""
    import jax

    commit, changes = commit_and_changes(Path(__file__).resolve().parent)
    return {
        "format_version": FORMAT_VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": commit,
        "uncommitted_changes": changes,
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "processes": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "libtpu_init_args": os.environ.get("LIBTPU_INIT_ARGS", ""),
        "malloc": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("MALLOC_", "GLIBC_T"))
        },
    }


class Start(TypedDict):
    """Fields that a later start reads from the description of a start of a run."""

    time: str
    lost_seconds: NotRequired[float]


class Starts(Start):
    """The content of `environment.json`."""

    earlier: NotRequired[list[Start]]


def describe_again(file: Path, **settings: Any) -> dict[str, Any]:
    """Returns `describe()` and `settings`, which this process chose by itself.

    The list `earlier` holds the descriptions in `file`, if it exists and is not damaged.
    """
    description = describe() | settings
    if before := read_json_if_whole(file, Starts):
        description["earlier"] = [*before.pop("earlier", []), before]
    return description


def commit_and_changes(directory: Path) -> tuple[str | None, str | None]:
    """Returns the commit of a directory, and the SHA-256 of the changes since then.

    Both are None if no repository tracks the directory. An environment with a copy of bert_jax may
    lie in the repository of another project, which ignores it. The hash covers the names of new
    files, not their contents. It is None if there are no changes.
    """
    if not _git(directory, "ls-files"):
        return None, None
    changes = _git(directory, "diff", "HEAD") + _git(directory, "status", "--porcelain")
    digest = hashlib.sha256(changes.encode("utf-8", "surrogateescape")).hexdigest()
    return _git(directory, "rev-parse", "HEAD"), digest if changes else None


def _git(directory: Path, *arguments: str) -> str:
    """Returns the output of git, or an empty string outside a repository."""
    command = ["git", "-C", str(directory), *arguments]
    try:
        output = subprocess.run(command, capture_output=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    # A changed file may have any encoding.
    return output.decode("utf-8", "surrogateescape").strip()


def package_version(name: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
