"""CRC-32C, the checksum of TensorFlow's files, vectorized with NumPy.

The bytes are cut into lanes of equal length, and NumPy computes the checksums of all lanes
together. Neighbouring lanes are then joined in pairs: the checksum of the bytes A + B is the
checksum of A, shifted by the length of B, XOR the checksum of B.

Reference: RFC 3720, appendix B.4.
"""

from typing import Any

import numpy as np

POLYNOMIAL = 0x82F63B78
"""Castagnoli's polynomial with its bits reversed."""

LANE = 256
"""Bytes in a lane. Short lanes keep a block in the cache."""

LANES = 4096
"""Lanes in a block, a power of two."""

SHORT = 4096
"""Content shorter than this, in bytes, is processed byte by byte."""

MASK_DELTA = 0xA282EAD8


def _byte_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return table


TABLE = _byte_table()
"""Effect of each byte value on the checksum."""


def masked_crc32c(content: bytes | np.ndarray) -> int:
    """Returns the checksum in the masked form that TensorFlow stores."""
    value = crc32c(content)
    return ((value >> 15 | value << 17) + MASK_DELTA) & 0xFFFFFFFF


def crc32c(content: bytes | np.ndarray) -> int:
    """Returns the CRC-32C of bytes, or of a uint8 array."""
    data = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
    if len(data) < SHORT:
        value = 0xFFFFFFFF
        for byte in data.tolist():
            value = int(TABLE[(value ^ byte) & 255]) ^ (value >> 8)
        return value ^ 0xFFFFFFFF
    # Starting from all ones equals inverting the first four bytes and starting from zero.
    # Leading zeros do not change a checksum that starts from zero.
    block = LANE * LANES
    padded = np.zeros(-(-len(data) // block) * block, np.uint8)
    padded[-len(data) :] = data
    padded[-len(data) :][:4] ^= 255
    steps = [_zeros(LANE)]
    while len(steps) < LANES.bit_length():
        steps.append(_apply(steps[-1], steps[-1]))
    value = np.uint32(0)
    for start in range(0, len(padded), block):
        value = _apply(steps[-1], value) ^ _block(padded[start : start + block], steps[:-1])
    return int(value) ^ 0xFFFFFFFF


def _block(data: np.ndarray, steps: list[np.ndarray]) -> np.uint32:
    """Returns the checksum of a block, started from zero and not inverted.

    Each step joins pairs of lanes, so the lanes double in length.
    """
    columns = np.ascontiguousarray(data.reshape(LANES, LANE).T)
    lanes = np.zeros(LANES, np.uint32)
    for column in columns:
        lanes = TABLE[(lanes ^ column) & 255] ^ (lanes >> 8)
    for step in steps:
        lanes = _apply(step, lanes[::2]) ^ lanes[1::2]
    return lanes[0]


def _zeros(count: int) -> np.ndarray:
    """Returns the effect of `count` zero bytes on each bit of a checksum, uint32 [32]."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(count):
        bits = TABLE[bits & 255] ^ (bits >> 8)
    return bits


def _apply(step: np.ndarray, values: Any) -> Any:
    """Applies a step to checksums. Applied to another step's bits, it composes both steps."""
    result = np.zeros_like(values)
    for bit in range(32):
        result = result ^ np.where((values >> np.uint32(bit)) & 1, step[bit], np.uint32(0))
    return result
