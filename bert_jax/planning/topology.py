"""Names of topologies, such as v5e:16x16, and the chips that they consist of."""

import math
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bert_jax.errors import require


class Chip(NamedTuple):
    """Rates and memory of a chip. The rates are per second, from the vendors' data sheets."""

    platform: Literal["tpu", "cuda"]
    device_kind: str
    """How jax names the chip."""
    memory: float
    """Bytes that a program may use. For TPUs, the compiler's out-of-memory message states them."""
    flops: float
    """Dense bfloat16 FLOPs."""
    memory_bandwidth: float
    """Bytes that the chip can read from or write to its memory."""
    link_bandwidth: float
    """Bytes sent over all links to other chips, in one direction."""
    network_bandwidth: float = 0
    """Bytes sent to other slices, in one direction; 0 if the data sheet does not say it."""


GIB = 2**30
CHIPS = {
    "v4": Chip("tpu", "TPU v4", 30.75 * GIB, 275e12, 1200e9, 300e9),
    "v5e": Chip("tpu", "TPU v5 lite", 15.75 * GIB, 197e12, 819e9, 200e9, 25e9 / 8),
    "v5p": Chip("tpu", "TPU v5", 95.74 * GIB, 459e12, 2765e9, 600e9, 50e9 / 8),
    "v6e": Chip("tpu", "TPU v6 lite", 31.25 * GIB, 918e12, 1640e9, 400e9, 100e9 / 8),
    # By default jax lets a program use three quarters of a GPU's memory.
    "h100": Chip("cuda", "NVIDIA H100", 0.75 * 84_978_434_048, 989e12, 3352e9, 450e9),
}

SHAPES_2D = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
"""The shapes of slices of v5e and v6e."""

H100 = Path(__file__).with_name("h100.txtpb")
"""The file that describes an H100 to XLA's compiler."""


class Topology(NamedTuple):
    """Chips and how they are arranged."""

    name: str
    chip: Chip
    num_chips: int
    num_slices: int = 1
    """Number of slices (TPU) or hosts (GPU). A slower network connects them."""

    @property
    def xla_arguments(self) -> dict[str, Any]:
        """Arguments of `jax.experimental.topologies.get_topology_desc`, except the platform."""
        shape = self.name.partition(":")[2]
        if self.chip.platform == "cuda":
            sizes = shape.split("x")
            hosts_and_devices = "x".join(["1"] * (3 - len(sizes)) + sizes)
            return {
                "topology": hosts_and_devices,
                "target_config": H100.read_text(encoding="utf-8"),
            }
        # Without megacore, a v4 chip has two devices.
        chip = next(name for name, chip in CHIPS.items() if chip == self.chip)
        megacore = {"chip_config_name": "megacore"} if chip == "v4" else {}
        slices = {"num_slices": self.num_slices} if self.num_slices > 1 else {}
        return {"topology_name": f"{chip}:{shape}"} | megacore | slices


def parse_topology(given: str) -> Topology:
    """Returns the topology with a name such as v5e:2x4, 2xv5e:2x4, v5p:2x2x2, h100:8 or h100:4x8.

    2xv5e:2x4 is two slices v5e:2x4. h100:8 is one host with 8 GPUs, and h100:4x8 is four hosts with
    8 GPUs each.

    Raises:
      ConfigError: the name has another form, or the chip is not known.
    """
    found = re.fullmatch(r"(?:([2-9]|[1-9]\d+)x)?(\w+):([1-9]\d*(?:x[1-9]\d*){0,2})", given)
    slices, chip, shape = found.groups() if found else ("", "", "")
    words = (
        f"CHIP:SHAPE, with a chip of {', '.join(CHIPS)}, such as v5e:2x4, 2xv5e:2x4 (two slices), "
        "v5p:2x2x2 or h100:8"
    )
    require(chip in CHIPS, "--topology", given, words)
    sizes = [int(size) for size in shape.split("x")]
    if chip in ("v5e", "v6e"):
        require(shape in SHAPES_2D, "--topology", given, f"a shape of {', '.join(SHAPES_2D)}")
    elif chip == "h100":
        require(len(sizes) < 3, "--topology", given, "the GPUs of a host, or HOSTSxGPUS")
    else:
        require(len(sizes) == 3, "--topology", given, "a shape of three dimensions: 2x2x1")
    known = CHIPS[chip].network_bandwidth
    require(not slices or known, "--topology", given, "slices of v5e, v5p or v6e; or h100:4x8")
    hosts = sizes[0] if chip == "h100" and len(sizes) == 2 else 1
    number = int(slices or 1)
    return Topology(given, CHIPS[chip], number * math.prod(sizes), number * hosts)
