"""Adds counts of words in bounded memory."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping


def merge_counts(parts: Iterable[Mapping[str, int]], *, limit: int) -> Counter[str]:
    """Adds up counts, part by part. `bound` then keeps at most `limit` keys after each part."""
    rng = random.Random(0)
    counts = Counter()
    for part in parts:
        counts.update(part)
        bound(counts, limit=limit, rng=rng)
    return counts


def bound(counts: dict[str, int], *, limit: int, rng: random.Random) -> None:
    """If there are more than `limit` keys, keeps a sample of at most `limit // 2`, in place.

    The expected count of every key stays the same. The method is threshold sampling (Duffield et
    al. 2005) with a threshold t: a key with t or more occurrences keeps its count. A rarer key
    stays with probability count / t, and then gets the count t. Dropping all rare keys instead
    would leave nothing of a text without spaces, because its keys hardly repeat.
    """
    if len(counts) <= limit:
        return
    threshold = 1
    while len(counts) > limit // 2:
        threshold *= 2
        kept = {
            key: max(count, threshold)
            for key, count in counts.items()
            if count >= threshold or rng.random() * threshold < count
        }
        counts.clear()
        counts.update(kept)
