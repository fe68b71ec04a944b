"""Formulas of queues and caches that the simulation is compared with."""

import math
import random
from itertools import accumulate

from cachetools import LRUCache

WARM_UP = 0.2
"""Share of a run that is not counted, because it starts with an empty queue or cache."""


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that an arrival waits in M/M/c. `load` = arrival rate / service rate < `servers`."""
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait(servers: int, per_minute: float, minutes: float) -> float:
    """Return the mean wait of M/M/c in minutes."""
    load = per_minute * minutes
    return erlang_c(servers, load) * minutes / (servers - load)


def percentile(values: list[float], q: float) -> float:
    """Return the quantile `q`, or NaN for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else math.nan


def hit_rate(*, concepts: int, cached: int, requests: int, seed: int) -> float:
    """Return the hit rate of an LRU cache. The n-th concept is requested n**-1.1 times as often as the first."""
    weights = list(accumulate((n + 1) ** -1.1 for n in range(concepts)))
    cache: LRUCache[int, bool] = LRUCache(cached)
    hits = 0
    asked = random.Random(seed).choices(range(concepts), cum_weights=weights, k=requests)
    counted_from = int(WARM_UP * requests)
    for number, concept in enumerate(asked):
        if cache.get(concept):
            hits += number >= counted_from
        else:
            cache[concept] = True
    return hits / (requests - counted_from)
