"""Ranking by several objectives: Pareto dominance, fronts, crowding. Pure arithmetic; of every score more is better.

With one objective the ranking is that of the numbers themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse than `other`, and somewhere better."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


def fronts(scores: Mapping[int, Sequence[float]]) -> list[list[int]]:
    """Non-dominated sorting (Deb et al. 2002, doi:10.1109/4235.996017): the first front is dominated by nobody, the next
    only by those of the fronts before it, and so on. O(n²) comparisons; within a front in the order of `scores`."""
    above = {number: 0 for number in scores}
    below: dict[int, list[int]] = {number: [] for number in scores}
    numbers = list(scores)
    for index, one in enumerate(numbers):
        for other in numbers[index + 1 :]:
            if dominates(scores[one], scores[other]):
                below[one].append(other)
                above[other] += 1
            elif dominates(scores[other], scores[one]):
                below[other].append(one)
                above[one] += 1
    found: list[list[int]] = []
    front = [number for number in numbers if above[number] == 0]
    while front:
        found.append(front)
        following = []
        for number in front:
            for other in below[number]:
                above[other] -= 1
                if above[other] == 0:
                    following.append(other)
        front = sorted(following, key=numbers.index)
    return found


def crowding(scores: Mapping[int, Sequence[float]], front: Sequence[int]) -> dict[int, float]:
    """The crowding distance of each trial in its front (Deb et al. 2002): how far apart its neighbours are, summed over the
    objectives, each in units of the front's width. Infinite at the ends. Equal scores share one distance."""
    places = list(dict.fromkeys(tuple(scores[number]) for number in front))
    distance = dict.fromkeys(places, 0.0)
    for objective in range(len(places[0])):
        ordered = sorted(places, key=lambda place: place[objective])
        width = ordered[-1][objective] - ordered[0][objective]
        distance[ordered[0]] = distance[ordered[-1]] = math.inf
        for before, place, after in zip(ordered, ordered[1:], ordered[2:], strict=False):
            distance[place] += (after[objective] - before[objective]) / width if width else 0.0
    return {number: distance[tuple(scores[number])] for number in front}


def ranked(scores: Mapping[int, Sequence[float]]) -> list[list[int]]:
    """The trials, best first, equals together and by their numbers: by front, and in a front those in the emptier places
    first."""
    if not scores:
        return []
    if len(next(iter(scores.values()))) == 1:
        keys: dict[int, tuple[float, ...]] = {number: (-score[0],) for number, score in scores.items()}
    else:
        keys = {}
        for place, front in enumerate(fronts(scores)):
            keys |= {number: (place, -distance) for number, distance in crowding(scores, front).items()}
    groups: dict[tuple[float, ...], list[int]] = {}
    for number in sorted(keys, key=lambda number: (keys[number], number)):
        groups.setdefault(keys[number], []).append(number)
    return list(groups.values())
