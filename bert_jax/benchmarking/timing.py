"""Times updates, and reads the memory of this process. Needs neither jax nor torch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRODUCT_SIZES = {"cpu": (1024, 1536), "accelerator": (4096, 8192)}
"""Sizes of the square matrices for `product_rate`."""

UNTIMED = 2
"""Number of updates before the timed updates."""

LEAST = 3
"""Smallest number of timed updates."""

WAIT_SECONDS = 0.5
"""About this much work is started before the program waits for it, as in training."""


def time_updates(
    update: Callable[[], Any], wait: Callable[[Any], Any], *, seconds: float
) -> dict[str, Any]:
    """Makes updates for at least `seconds`, after `UNTIMED` updates that are not timed.

    `update` returns a result that may not be computed yet; `wait` waits for it. The returned dict
    has the number of timed `updates`, their mean `seconds`, and `resident_bytes`: the peak of the
    resident memory of this process during these updates, or None outside Linux.
    """
    for _ in range(UNTIMED):
        start = time.perf_counter()
        wait(update())
        once = time.perf_counter() - start
    at_a_time = max(round(WAIT_SECONDS / once), 1)
    restart_peak()
    count, elapsed, start = 0, 0.0, time.perf_counter()
    while elapsed < seconds or count < LEAST:
        for _ in range(at_a_time):
            result = update()
        wait(result)
        count += at_a_time
        elapsed = time.perf_counter() - start
    return {"updates": count, "seconds": elapsed / count, "resident_bytes": peak_bytes()}


def best_seconds(run: Callable[[], Any], *, rounds: int = 10) -> float:
    """Returns the shortest time of `rounds` calls, after a call that is not timed."""
    run()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def product_rate(device: str, make_product: Callable[[int], Callable[[], Any]]) -> float:
    """Returns the FLOPs per second of the fastest product of square matrices: a device's ceiling.

    `make_product` takes a size. It returns a function that computes a product and waits for it. The
    name of the `device` is `cpu`, or any other for an accelerator.
    """
    sizes = PRODUCT_SIZES["cpu" if device == "cpu" else "accelerator"]
    return max(2 * size**3 / best_seconds(make_product(size)) for size in sizes)


def restart_peak() -> None:
    """Sets the peak of this process's resident memory to its resident memory now (Linux)."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")  # `man proc_pid_clear_refs`


def peak_bytes() -> int | None:
    """Returns the peak of this process's resident memory since `restart_peak`; None if unknown."""
    file = Path("/proc/self/status")
    if not file.exists():
        return None
    (line,) = [line for line in file.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
