"""Counts of what a corpus holds, in bounded memory."""

import random


def thin(counts: dict[str, int], *, limit: int, rng: random.Random) -> None:
    """Samples at most `limit` keys so that all counts of their parts stay right on average.

    With a threshold t, what occurs t times or more stays as it is, and the rest stays with
    probability count / t and counts t times (threshold sampling, Duffield et al. 2005). Dropping
    the rare ones would leave nothing of text without spaces.
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
