"""Damages the bytes of a file: at random, and JSON by its structure."""

import json
import random
import struct

NUMBERS = [
    struct.pack(form, number & (256 ** struct.calcsize(form) - 1))
    for form in ("<B", "<H", "<I", ">I", "<Q")
    for number in (0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -1)
]
"""Sizes and offsets that a format may hold, at their limits."""

VARINTS = (b"\xff" * 9 + b"\x01", b"\xff" * 30, b"\x80\x80\x80\x80\x10")

VALUES = (None, True, 0, -1, 2**31, 2**63, 2**80, 0.5, 1e308, "", "x", "../../etc/passwd", [], {})
"""JSON values of every type."""

RAW = ("1e999", "NaN", "-Infinity", "9" * 5000, '"\\ud83d"', "[" * 100_000, '{"a":' * 100_000)
"""JSON that `json.dumps` does not write."""


def mutate(content: bytes, rng: random.Random, *, form: str = "") -> bytes:
    """Returns damaged bytes. `form` is 'json' or 'jsonl', or '' for other files."""
    if form and rng.random() < 0.6:
        lines = content.decode().splitlines() if form == "jsonl" else [content.decode()]
        number = rng.randrange(len(lines))
        lines[number] = mutate_json(lines[number], rng)
        return "\n".join(lines).encode()
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        content = mutate_bytes(content, rng)
    return content


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Changes, cuts, repeats or inserts bytes at a random place."""
    at, length = rng.randrange(len(content) + 1), rng.choice((1, 2, 4, 8, 40, 400))
    other = rng.randrange(len(content) + 1)
    before, after = content[:at], content[at:]
    match rng.randrange(7):
        case 0:
            bits = 1 << rng.randrange(8)
            return before + bytes(byte ^ bits for byte in after[:1]) + after[1:]
        case 1:
            return before
        case 2:
            return before + after[length:]
        case 3:
            return before + content[other : other + length] + after
        case 4:
            return before + rng.randbytes(length) + after[rng.choice((0, length)) :]
        case 5:
            number = rng.choice(NUMBERS)
            return before + number + after[len(number) :]
        case _:
            return before + rng.choice(VARINTS) + after[rng.choice((0, 1)) :]


def mutate_json(text: str, rng: random.Random) -> str:
    """Replaces, deletes or repeats a value at a random place."""
    root = [json.loads(text)]
    places = list(_places(root))
    parent, key = rng.choice(places)
    raw = None
    match rng.randrange(6):
        case 0 if parent is not root:
            del parent[key]
        case 1:
            parent[key] = [parent[key]]
        case 2:
            other, name = rng.choice(places)
            parent[key] = json.loads(json.dumps(other[name]))
        case 3:
            parent[key], raw = "raw value", rng.choice(RAW)
        case _:
            parent[key] = rng.choice(VALUES)
    damaged = json.dumps(root[0])
    return damaged.replace('"raw value"', raw) if raw else damaged


def _places(container):
    """Yields (container, key) of every value. At most 20 entries of a list count."""
    keys = range(min(len(container), 20)) if isinstance(container, list) else list(container)
    for key in keys:
        yield container, key
        if isinstance(container[key], list | dict):
            yield from _places(container[key])
