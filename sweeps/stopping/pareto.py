"""Ranking by several objectives: Pareto dominance, fronts, crowding. Pure arithmetic; of every score more is better.

With one objective the ranking is that of the numbers themselves.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether `one` is nowhere worse than `other`, and somewhere better."""
    better = False
    for a, b in zip(one, other, strict=True):  # asked for every pair of a front: a loop takes a third of what `all` does
        if not a >= b:
            return False
        better = better or a > b
    return better


class Fronts:
    """Non-dominated sorting (Deb et al. 2002, doi:10.1109/4235.996017), kept up as scores come in (Li et al. 2014,
    doi:10.1109/TCYB.2013.2281520, "efficient non-domination level update"): the first front is dominated by nobody, the next
    only by those of the fronts before it, and so on.

    A new score is looked for by halves among the fronts, since whom one front dominates all before it do; those that it
    dominates move one front down.
    """

    def __init__(self, scores: Mapping[int, Sequence[float]] | None = None) -> None:
        self._fronts: list[dict[int, Sequence[float]]] = []
        # From the best sum on down nobody is dominated by one that comes later, so that nobody has to move.
        for number, score in sorted((scores or {}).items(), key=lambda item: sum(item[1]), reverse=True):
            self.add(number, score)

    def add(self, number: int, scores: Sequence[float]) -> None:
        """Trial `number`, which is in no front yet, has these scores."""
        level = bisect_left(self._fronts, True, key=lambda front: not any(dominates(one, scores) for one in front.values()))
        coming: dict[int, Sequence[float]] = {number: scores}
        while coming:
            if level == len(self._fronts):
                self._fronts.append({})
            front = self._fronts[level]
            beaten = {one: held for one, held in front.items() if any(dominates(new, held) for new in coming.values())}
            for one in beaten:
                del front[one]
            front.update(coming)
            coming, level = beaten, level + 1

    def __iter__(self) -> Iterator[dict[int, Sequence[float]]]:
        """Each front by the trials in it, the first front first."""
        return iter(self._fronts)


def fronts(scores: Mapping[int, Sequence[float]]) -> list[list[int]]:
    """The fronts of all these scores; within a front in their order."""
    places = {number: place for place, number in enumerate(scores)}
    return [sorted(front, key=places.__getitem__) for front in Fronts(scores)]


def crowding(scores: Mapping[int, Sequence[float]], front: Sequence[int]) -> dict[int, float]:
    """The crowding distance of each trial in its front (Deb et al. 2002): how far apart its neighbours are, summed over the
    objectives, each in units of the front's width. Infinite at the ends. Equal scores share one distance."""
    places = sorted({tuple(scores[number]) for number in front})
    distance = dict.fromkeys(places, 0.0)
    for objective in range(len(places[0])):
        ordered = sorted(places, key=lambda place: place[objective])
        width = ordered[-1][objective] - ordered[0][objective]
        distance[ordered[0]] = distance[ordered[-1]] = math.inf
        for before, place, after in zip(ordered, ordered[1:], ordered[2:], strict=False):
            distance[place] += (after[objective] - before[objective]) / width if width else 0.0
    return {number: distance[tuple(scores[number])] for number in front}


def ranked_front(front: Mapping[int, Sequence[float]]) -> list[list[int]]:
    """The trials of one front, those in the emptier places first, equals together and by their numbers."""
    distances = crowding(front, list(front))
    groups: dict[float, list[int]] = {}
    for number in sorted(front, key=lambda number: (-distances[number], number)):
        groups.setdefault(distances[number], []).append(number)
    return list(groups.values())


def ranked(scores: Mapping[int, Sequence[float]]) -> list[list[int]]:
    """The trials, best first, equals together and by their numbers: by front, and in a front those in the emptier places
    first."""
    if not scores:
        return []
    if len(next(iter(scores.values()))) > 1:
        return [equals for front in Fronts(scores) for equals in ranked_front(front)]
    groups: dict[float, list[int]] = {}
    for number in sorted(scores, key=lambda number: (-scores[number][0], number)):
        groups.setdefault(scores[number][0], []).append(number)
    return list(groups.values())
