"""Dropout for many networks at once: every member draws from a generator of its own, and only where it drops anything.

So no member's numbers depend on which others train beside it. Knows networks only by `torch.nn.functional.dropout`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from lhtx.fused.per_member import PerMember

CHUNK = 2**16
"""Numbers that a member draws at a time: K members then cost K calls now and then and not at every use."""


class Noise:
    """Uniform random numbers in [0, 1), float32, for each of K members.

    Args:
        device: where they are drawn and used.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._generators: list[Generator] = []
        self._drawn = torch.empty(0, CHUNK)
        self._used: list[int] = []

    def begin(self, entropies: Sequence[Sequence[int]]) -> None:
        """Start K members anew: what each one draws from here on follows from its own `entropies`, whole numbers."""
        self._generators = []
        for entropy in entropies:
            seed = int(np.random.SeedSequence(list(entropy)).generate_state(1, np.uint64)[0] >> 1)
            self._generators.append(Generator(self._device).manual_seed(seed))
        self._drawn = torch.empty(len(entropies), CHUNK, device=self._device)
        self._used = [CHUNK] * len(entropies)

    def numbers(self, rate: float | PerMember, shape: Sequence[int]) -> Tensor:
        """Numbers (K, *shape) by which each member drops values of a `shape`: those whose number is below its `rate`."""
        return self.draw(shape, [number > 0 for number in rate.numbers] if isinstance(rate, PerMember) else None)

    def draw(self, shape: Sequence[int], members: Sequence[bool] | None = None) -> Tensor:
        """The next numbers (K, *shape), of all members or of those that are true; the others draw nothing and have zeros."""
        count = int(np.prod(shape, dtype=np.int64))
        whose = [member for member in range(len(self._used)) if members is None or members[member]]
        for member in whose:
            if self._used[member] + count > CHUNK:
                torch.rand(CHUNK, generator=self._generators[member], out=self._drawn[member])
                self._used[member] = 0
        numbers = self._next(count, whose)
        return numbers.reshape(len(numbers), *shape)

    def _next(self, count: int, whose: list[int]) -> Tensor:
        if count > CHUNK:
            rows = {member: torch.rand(count, generator=self._generators[member], device=self._device) for member in whose}
        else:
            starts = {member: self._used[member] for member in whose}
            for member in whose:
                self._used[member] += count
            if len(starts) == len(self._used) and len(set(starts.values())) == 1:  # nearly always
                return self._drawn[:, starts[0] : starts[0] + count]
            rows = {member: self._drawn[member, start : start + count] for member, start in starts.items()}
        nothing = torch.zeros(count, device=self._device)
        return torch.stack([rows.get(member, nothing) for member in range(len(self._used))])


def drop(values: Tensor, numbers: Tensor, rate: Any) -> Tensor:
    """`values` with those set to 0 whose `numbers` are below `rate`, and the rest divided by 1 − `rate`."""
    return values * (numbers >= rate).to(values.dtype) / (1 - rate)


class Draw(torch.autograd.Function):
    """`Noise.numbers` below `torch.vmap`: applied to one element a member, it gives each member its own numbers."""

    @staticmethod
    def forward(member: Tensor, noise: Noise, rate: float | PerMember, shape: tuple[int, ...]) -> Tensor:
        raise RuntimeError("to be called below vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, member: Tensor, noise: Noise, rate: float | PerMember, shape: tuple[int, ...]
    ) -> tuple[Tensor, int]:
        return noise.numbers(rate, shape), 0
