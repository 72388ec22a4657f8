"""Bounded-memory counts."""

import random


def thin(counts: dict[str, int], *, limit: int, rng: random.Random) -> None:
    """Samples at most `limit` keys, in place. The expected count of every key stays the same.

    Threshold sampling (Duffield et al. 2005) with a threshold t: a key with t or more occurrences
    keeps its count. Another key stays with probability count / t, and then gets the count t.
    Dropping all rare keys instead would leave nothing of text without spaces.
    """
    threshold = 1
    while len(counts) > limit:
        threshold *= 2
        kept = {
            key: max(count, threshold)
            for key, count in counts.items()
            if count >= threshold or rng.random() * threshold < count
        }
        counts.clear()
        counts.update(kept)
