"""Notices too little memory, if possible before a program runs, and explains it in one line."""

import contextlib
import errno
import math
import os
import re
import resource
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bert_jax.config import flatten
from bert_jax.errors import BertJaxError, OutOfMemoryError

SMALLER = (
    *("data.batch_size", "data.sequence_length", "training.batch_size", "task.max_length"),
    *("training.evaluation_batch_size", "evaluation.batch_size", "--batch_size"),
    *("model.hidden_size", "model.num_layers", "model.vocab_size"),
)
"""Fields and flags whose smaller values need less memory."""

LARGER = ("training.microbatches", "mesh.fsdp")
"""Fields whose larger values need less memory on each device."""


@contextlib.contextmanager
def explain_lack_of_memory(config: Any = None, **sizes: Any) -> Iterator[None]:
    """Turns an error for lack of memory, in any library, into an OutOfMemoryError of one line.

    The line names the fields of `config` and the flags in `sizes` that decide how much is needed.
    """
    try:
        yield
    except BertJaxError:
        raise
    except Exception as error:
        if not is_lack_of_memory(error):
            raise
        raise OutOfMemoryError(f"{_first_line(error)}; {_remedy(config, sizes)}") from error


def is_lack_of_memory(error: Exception) -> bool:
    """Returns whether Python, numpy, XLA or the system raised the error for lack of memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    by_xla = type(error).__module__.startswith("jax") and (
        "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
    )
    return isinstance(error, MemoryError) or by_xla


def check_fits(bytes_of: Mapping[str, float], config: Any, devices: Sequence[Any]) -> None:
    """Raises OutOfMemoryError if a device has too little memory for an update.

    `bytes_of` has the bytes that each kind of arrays needs on a device.
    """
    needed, available = sum(bytes_of.values()), device_memory(devices)
    if needed > available:
        parts = ", ".join(f"{kind} {in_words(size)}" for kind, size in bytes_of.items())
        raise OutOfMemoryError(
            f"an update needs at least {in_words(needed)} of memory on each device ({parts}), but "
            f"a device has {in_words(available)}; {_remedy(config, {})}"
        )


def program_memory(analysis: Any) -> dict[str, int]:
    """Returns the bytes that a compiled program needs on a device: the peak, and each kind.

    XLA's own `peak_memory_in_bytes` leaves out the temporaries on a CPU. For BERT-mini with 32 rows
    of 128 tokens, this field is 135 MB, but the temporaries alone are 845 MB.
    """
    kinds = {
        "arguments": analysis.argument_size_in_bytes,
        "outputs": analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
        "aliased": analysis.alias_size_in_bytes,
    }
    return {"peak": sum(kinds.values()) - 2 * kinds["aliased"], **kinds}


def device_memory(devices: Sequence[Any]) -> float:
    """Returns the bytes that programs may use on a device, or infinity if they are not known.

    Devices on a CPU share the memory of this machine.
    """
    import jax

    mine = [device for device in devices if device.process_index == jax.process_index()]
    if mine[0].platform == "cpu":
        return _host_memory() / len(mine)
    limits = [(device.memory_stats() or {}).get("bytes_limit", math.inf) for device in mine]
    return min(limits)


def _host_memory() -> float:
    """Returns the bytes of this machine's memory, or of the part that this process may use."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return whole if limit == resource.RLIM_INFINITY else min(whole, limit)


def in_words(size: float) -> str:
    """Returns a number of bytes in GiB, or in MiB if it is less than 1 GiB."""
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _first_line(error: Exception) -> str:
    lines = str(error).rpartition("RESOURCE_EXHAUSTED:")[2].strip().splitlines()
    said = lines[0][:300].rstrip(".") if lines else "memory is too small"
    return re.sub(r"\b\d{7,} bytes", lambda found: in_words(int(found[0].split()[0])), said)


def _remedy(config: Any, sizes: Mapping[str, Any]) -> str:
    values = (flatten(config) if config else {}) | {f"--{name}": sizes[name] for name in sizes}
    smaller, larger = (
        [f"{name} ({values[name]})" for name in names if name in values]
        for names in (SMALLER, LARGER)
    )
    words = [f"smaller {', '.join(smaller)}"] if smaller else ["fewer rows at a time"]
    words += [f"larger {', '.join(larger)}"] if larger else []
    if values.get("model.remat") == "none":  # a CPU needs less memory only if layers are in a loop
        words.append("model.remat=full with model.scan_layers=true")
    return f"accepted: {', or '.join(words)}, or more memory"
