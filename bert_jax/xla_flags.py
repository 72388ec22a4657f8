"""The flags that bert_jax gives to XLA's compilers. This module does not import jax."""

import os
from typing import Literal, NamedTuple


class Flag(NamedTuple):
    """A flag of XLA that differs from XLA's default, and the reason."""

    platform: Literal["cpu", "gpu", "tpu"]
    name: str
    value: str
    reason: str
    """The reason says what the flag does, what was measured, and the source."""


MAXTEXT = "https://github.com/AI-Hypercomputer/maxtext/blob/main/benchmarks/xla_flags_library.py"

FLAGS = (
    Flag(
        "cpu",
        "--xla_cpu_prefer_vector_width",
        "512",
        "Vectors of 512 bits make GELU and dropout 1.3 to 1.9 times as fast as the default of 256 "
        "on a CPU with AVX-512.",
    ),
    Flag(
        "tpu",
        "--xla_tpu_enable_windowed_einsum_for_all_gather",
        "false",
        "With mesh.fsdp, XLA splits each matrix product into a loop over the devices. On eight "
        "devices, a loop sends 9 parts instead of 7, and it writes its sums to memory. Estimate "
        "for BERT-base, 256 rows of 128 tokens, v5e:2x4, mesh.fsdp=8, O1: 47.8 GB of memory "
        f"traffic with the loops and 15.3 GB without. DISABLE_COLLECTIVE_MATMUL in {MAXTEXT}",
    ),
    Flag(
        "tpu",
        "--xla_tpu_enable_windowed_einsum_for_reduce_scatter",
        "false",
        "The same for the gradients of kernels.",
    ),
    Flag(
        "tpu",
        "--xla_tpu_scoped_vmem_limit_kib",
        "32768",
        "On-chip memory of an instruction (default: 16384). With less, XLA does not scatter the "
        "gradient of the token table, but sums it whole on every device, which then sends 78 MiB "
        "more in the same estimate. The flag costs 1.5 % of the roofline time of BERT-base with "
        "256 rows of 512 tokens, mesh.data=8 and the attention kernel, at XLA's default level. "
        f"DENSE_VMEM_LIMIT_FLAG (98304) in {MAXTEXT}",
    ),
)
"""All flags of bert_jax. GPUs need none.

https://docs.jax.dev/en/latest/gpu_performance_tips.html recommends
--xla_gpu_enable_latency_hiding_scheduler and higher combining thresholds. For h100:8, jaxlib 0.10.2
compiles the same program with the scheduler's flag on and off. Its default thresholds combine the
gradients of a layer of BERT-base into one sum, and all sums are asynchronous.
"""

VARIABLES = {"cpu": "XLA_FLAGS", "gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}
"""The environment variable from which a platform's compiler reads its flags.

Every version of jaxlib knows the flags of CPUs and GPUs, and ignores those of the other platform.
Only libtpu reads LIBTPU_INIT_ARGS. An unknown flag ends the process.
"""


def missing(variable: str, given: str) -> list[str]:
    """Returns the flags of `FLAGS` for an environment variable that are not in `given`.

    XLA reads its flags from a file if `given` is the path of one. Nothing can then be added.
    """
    if given and not given.lstrip().startswith("-"):
        return []
    names = {flag.partition("=")[0].lstrip("-") for flag in given.split()}
    ours = (flag for flag in FLAGS if VARIABLES[flag.platform] == variable)
    return [f"{flag.name}={flag.value}" for flag in ours if flag.name.lstrip("-") not in names]


def merge(variable: str, given: str) -> str:
    """Returns the flags of `FLAGS` for an environment variable, then the user's flags, `given`.

    If the user gives a flag of `FLAGS`, only the user's value is in the result.
    """
    return " ".join([*missing(variable, given), *given.split()])


def set_variables() -> None:
    """Adds `FLAGS` to the environment of this process. Call this before jax is imported."""
    for variable in set(VARIABLES.values()):
        os.environ[variable] = merge(variable, os.environ.get(variable, ""))
