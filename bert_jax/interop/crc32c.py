"""CRC-32C, the checksum of TensorFlow's files, fast enough for weights.

The bytes are cut into many lanes of equal length, whose checksums NumPy computes side by side, and
which are then joined two by two: the checksum of A followed by B is that of A, moved on by the
length of B, plus that of B, where plus is exclusive or.

Reference: RFC 3720, appendix B.4.
"""

from typing import Any

import numpy as np

POLYNOMIAL = 0x82F63B78
"""Castagnoli's, its bits reversed."""

LANE = 256
"""Bytes; short, so that a block of lanes stays in the cache."""

LANES = 4096
"""In a block; a power of two, so that they join two by two."""

SHORT = 4096
"""Bytes that are done one by one."""

MASK_DELTA = 0xA282EAD8


def _byte_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return table


TABLE = _byte_table()
"""What one byte does to the checksum."""


def masked_crc32c(content: bytes | np.ndarray) -> int:
    """Returns the checksum as TensorFlow stores it, for content that may hold checksums itself."""
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
    # To start from all ones is to invert the first four bytes and start from zero; from zero,
    # zeros in front change nothing.
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
    """The checksum of a block, from zero and not inverted; each step joins lanes twice as long."""
    columns = np.ascontiguousarray(data.reshape(LANES, LANE).T)
    lanes = np.zeros(LANES, np.uint32)
    for column in columns:
        lanes = TABLE[(lanes ^ column) & 255] ^ (lanes >> 8)
    for step in steps:
        lanes = _apply(step, lanes[::2]) ^ lanes[1::2]
    return lanes[0]


def _zeros(count: int) -> np.ndarray:
    """What that many zero bytes do to each bit of a checksum, uint32 [32]."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(count):
        bits = TABLE[bits & 255] ^ (bits >> 8)
    return bits


def _apply(step: np.ndarray, values: Any) -> Any:
    """A step applied to checksums; to the bits of another step it gives both, one after another."""
    result = np.zeros_like(values)
    for bit in range(32):
        result = result ^ np.where((values >> np.uint32(bit)) & 1, step[bit], np.uint32(0))
    return result
