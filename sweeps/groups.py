"""Which trials train together: forms groups of what the study proposes, and fills the places of those that end.

Everything that it knows is about trials that run: a driver that is killed forgets it, and the next one forms new groups. It
must not know Ray: `searcher.py` brings Tune's questions and messages here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeps.attributes import ALONE
from sweeps.hydra_overrides import value_of
from sweeps.schema import FIRST_ORDER
from sweeps.study import SweepStudy

Assignment = dict[str, Any]
"""What the study proposes: a trial's number, overrides and directory."""


@dataclass(frozen=True)
class Change:
    """What the answer to a group's message is to say."""

    stop: Sequence[int] = ()
    join: Sequence[Assignment] = ()

    def __bool__(self) -> bool:
        return bool(self.stop or self.join)


@dataclass
class _Group:
    places: int
    """How many trials it has room for."""
    alone: bool
    """Whether its one trial trains by itself, as `lhtx.train` would."""
    members: dict[int, Assignment] = field(default_factory=dict)
    orders: dict[int, int] = field(default_factory=dict)
    """By trial, also those that have left: which order of batches its first epoch took (docs/fused.md)."""
    reached: int = 0
    """The order that the group's next epoch takes."""


class Groups:
    """The groups of one sweep. Where its trials do not train as one (`fuse: 1`), each is a group of its own."""

    def __init__(self, study: SweepStudy, slots: int = 1, more: bool = False) -> None:
        """
        Args:
            slots: how many groups run at a time.
            more: there may be further slots later, for which a group is to be ready.
        """
        self._study, self._slots, self._more = study, slots, more
        self._size = study.space.group_size
        self._groups: dict[str, _Group] = {}
        self._kept: list[Assignment] = []
        """Trials that go on by themselves, and were proposed for a place in a group."""

    @property
    def may_come_back(self) -> bool:
        """Whether a trial that runs may have to be started once more."""
        return self._size > 1 and bool(self._groups)

    def members(self, name: str) -> list[Assignment]:
        """The trials of a group now."""
        return list(self._groups[name].members.values()) if name in self._groups else []

    def fused(self, name: str) -> bool:
        """Whether a group's trials train as one, be it only one of them."""
        return name in self._groups and not self._groups[name].alone

    def form(self, name: str) -> list[Assignment]:
        """The trials of a new group; none as long as the study has nothing to propose, or the places of the groups that run
        are for all that there is.

        Raises: as `SweepStudy.propose`.
        """
        if self._size > 1 and not self._more and len(self._groups) >= self._slots:
            return []  # what waits for a slot could have joined those meanwhile
        group = _Group(self._room(), alone=self._size == 1)
        if not self._kept:
            self._fill(group)
        if not group.members and self._kept:
            group.alone, group.places = True, 1
            self._enter(group, self._kept.pop(0))
        if group.members:
            self._groups[name] = group
        return self.members(name)

    def _room(self) -> int:
        """As many as an even share of the trials that are left makes, at most `fuse`."""
        under_way = sum(len(group.members) for group in self._groups.values())
        left = self._study.target - self._study.ended.total() - under_way
        return max(1, min(self._size, math.ceil(left / max(1, self._slots - len(self._groups)))))

    def _fill(self, group: _Group) -> list[Assignment]:
        """Let trials join until its places are taken, or there is none to propose; those that have."""
        joined: list[Assignment] = []
        while len(group.members) < group.places and not self._kept and self._study.error is None:
            if (assignment := self._study.propose(group.reached)) is None:
                break
            if ALONE in self._study.trial(assignment["number"]).user_attrs:
                self._kept.append(assignment)
            else:
                self._enter(group, assignment)
                joined.append(assignment)
        return joined

    def _enter(self, group: _Group, assignment: Assignment) -> None:
        number = assignment["number"]
        group.members[number] = assignment
        group.orders[number] = value_of(assignment["overrides"], FIRST_ORDER, 0)
        group.reached = max(group.reached, group.orders[number] + self._study.epochs(number))

    def hear(self, name: str, message: Mapping[str, Any]) -> Change:
        """Bring the study what the members of a group say; what is to change among them.

        Raises: as `SweepStudy.report` and `SweepStudy.propose`.
        """
        group, stop, waiting = self._groups[name], [], False
        for report in message["reports"]:
            number = report["number"]
            group.reached = max(group.reached, group.orders[number] + report["epoch"])
            if (verdict := self._study.report(number, report)) is not None:
                del group.members[number]
                stop.append(number)
                waiting = waiting or verdict.verdict == "waiting"
        for finished in message["finished"]:
            del group.members[finished["number"]]
            self._study.finish(finished["number"], finished)
        for unfit in message["unfit"]:
            self._put_back(group, unfit["number"], unfit["error"])
        # A trial that is suspended just now may be the next that goes on, and has not written its checkpoint yet.
        joined = [] if waiting else self._fill(group)
        for assignment in joined:
            self._study.begin(assignment["number"])
        return Change(stop, joined)

    def end(self, name: str, error: str | None = None) -> None:
        """A group's process has ended. A trial of its own fails with its `error`; several go on, each by itself: if one of
        them is to blame, it fails alone."""
        group = self._groups.pop(name, None)
        if group is None or error is None:
            return
        for number in list(group.members):
            if group.alone:
                self._study.fail(number, {"error": error})
            else:
                self._put_back(group, number, error)

    def _put_back(self, group: _Group, number: int, error: str) -> None:
        del group.members[number]
        self._study.put_back(number, error)
