"""A number that differs from member to member, standing where a network's or a loss's code expects a float.

Knows neither networks nor training; what holds the numbers of all members (`value`) may be a stacked or a vmapped tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor


class NotTheSame(TypeError):
    """Code needs one number for all members and got one of each."""


class PerMember:
    """One scalar of each member, for arithmetic with their tensors.

    It is true, and differs from 0, where one member's is not 0: code that leaves out what a 0 switches off (`if
    self.dropout:`) then does it for all, which is exact where 0 means that nothing is changed. Nothing else about it can be
    asked; whoever needs a float gets `NotTheSame`.

    Args:
        value: the tensor that stands for it.
        numbers: the same as numbers, one a member.
    """

    __slots__ = ("numbers", "value")

    def __init__(self, value: Tensor, numbers: Sequence[float]) -> None:
        self.value, self.numbers = value, numbers

    def __bool__(self) -> bool:
        return any(self.numbers)

    def __eq__(self, other: object) -> bool:
        if other == 0:
            return not any(self.numbers)
        self._refuse()

    def __hash__(self) -> int:
        return id(self)

    def __add__(self, other: Any) -> Any:
        return self.value + other

    def __sub__(self, other: Any) -> Any:
        return self.value - other

    def __mul__(self, other: Any) -> Any:
        return self.value * other

    def __truediv__(self, other: Any) -> Any:
        return self.value / other

    def __radd__(self, other: Any) -> Any:
        return other + self.value

    def __rsub__(self, other: Any) -> Any:
        return other - self.value

    def __rmul__(self, other: Any) -> Any:
        return other * self.value

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.value

    def _refuse(self, *_: Any) -> NoReturn:
        raise NotTheSame("code that compares or converts a number which differs between the networks")

    __lt__ = __le__ = __gt__ = __ge__ = __float__ = __int__ = __index__ = _refuse
