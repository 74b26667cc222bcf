"""One forward pass of many members over one batch: each one's loss and predictions, by the task's own code.

The network and the losses are not written a second time: a copy of one member's task runs with the tensors and the numbers
of all, under `torch.vmap`, or by hand (`lhtx.fused.by_hand`) where that has a rule for all that the task calls.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lhtx.fused.by_hand import drawing, stacked
from lhtx.fused.noise import Draw, Noise, drop
from lhtx.fused.per_member import NotTheSame, PerMember
from lhtx.fused.stack import Stack

Numbers = Mapping[tuple[str, str], Sequence[float]]
"""(module, attribute) → that number of each member, for those that are not the same in all."""


@dataclass
class StepResult:
    """What a batch gave, for each of K members.

    `loss` (K,) is what is minimised; `plain_loss` (K,) its part that is a mean over samples; `predictions` of each head
    (K, B); `weighted` of each other head its loss (K,) and the sum of its samples' weights (K,).
    """

    loss: Tensor
    plain_loss: Tensor
    predictions: list[Tensor]
    weighted: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class FusedStep:
    """The forward pass, for members that are alike but for their tensors and `numbers`.

    Args:
        task: one of the members', which is copied.
        numbers: what differs besides tensors.
        noise: what dropout draws from.
        by_hand: whether to do without vmap; every function that is called must then have a rule.
    """

    def __init__(self, task: LightningModule, numbers: Numbers, noise: Noise, by_hand: bool) -> None:
        self._template = _Template(task)
        self._noise, self.by_hand = noise, by_hand
        some = next(task.parameters())
        self._numbers = {place: torch.tensor(each, dtype=some.dtype, device=some.device) for place, each in numbers.items()}
        self._plain = {place: tuple(each) for place, each in numbers.items()}
        self._places = self._template.places()
        self._training: bool | None = None
        self._stack: Stack | None = None

    def __call__(self, stack: Stack, batch: Mapping[str, Tensor], training: bool) -> StepResult:
        """The members of `stack` on `batch`, in training or in evaluation mode; buffers are changed in place."""
        if training != self._training:
            self._template.train(training)
            self._training = training
        tensors = self._tensors(stack)
        if self.by_hand:
            numbers = {place: stacked(each) for place, each in self._numbers.items()}
            with drawing(self._noise), self._assigned(tensors, numbers):
                # Class weights, which would make losses weigh apart, have no rule.
                loss, plain, predictions, _ = self._template(batch)
            return StepResult(loss.as_subclass(Tensor), plain.as_subclass(Tensor), [p.as_subclass(Tensor) for p in predictions])
        slots = torch.zeros(len(stack), device=next(iter(tensors.values())).device)
        one = torch.vmap(self._one, in_dims=(0, 0, 0, None), randomness="error")
        return StepResult(*one(tensors, self._numbers, slots, batch))

    def _tensors(self, stack: Stack) -> dict[str, Tensor]:
        if stack is not self._stack:
            self._given = stack.trained | stack.fixed
            if self.by_hand:
                with torch.enable_grad():  # the first batch may be one of a validation
                    self._given = {name: stacked(each) for name, each in self._given.items()}
            self._stack = stack
        return self._given

    def _one(
        self, tensors: dict[str, Tensor], numbers: dict[tuple[str, str], Tensor], slot: Tensor, batch: Mapping[str, Tensor]
    ) -> Any:
        """The pass of one member, below vmap."""
        with self._assigned(tensors, numbers), _MemberFunctions(self._noise, slot):
            return self._template(batch)

    @contextmanager
    def _assigned(self, tensors: Mapping[str, Tensor], numbers: Mapping[tuple[str, str], Tensor]) -> Iterator[None]:
        """The template has these tensors and numbers in place of one member's, as `torch.func.functional_call` would have it;
        that looks through all modules at every call."""
        own = [slots[key] for name in tensors for slots, key in self._places[name]]
        owners = {place: self._template.task.get_submodule(place[0]) for place in numbers}
        before = {place: getattr(owner, place[1]) for place, owner in owners.items()}
        try:
            for name, tensor in tensors.items():
                for slots, key in self._places[name]:
                    slots[key] = tensor
            for place, owner in owners.items():
                setattr(owner, place[1], PerMember(numbers[place], self._plain[place]))
            yield
        finally:
            for (slots, key), tensor in zip((place for name in tensors for place in self._places[name]), own, strict=True):
                slots[key] = tensor
            for place, owner in owners.items():
                setattr(owner, place[1], before[place])


class _Recorder(nn.Module):
    """Stands where the task keeps its metrics, and notes what it would accumulate."""

    def accumulate(
        self, loss: Tensor, predictions: Sequence[Tensor], index: Tensor, value: Tensor, weighted: Sequence[Any] = ()
    ) -> None:
        self.noted = (loss, list(predictions), [tuple(each) for each in weighted])


class _Template(nn.Module):
    """A task's step as a module that returns all that came of it."""

    def __init__(self, task: LightningModule) -> None:
        super().__init__()
        self.task = copy.deepcopy(task)
        self.task.train_metrics = _Recorder()

    def places(self) -> dict[str, list[tuple[dict[str, Any], str]]]:
        """Name of a parameter or buffer → where modules keep it: a mapping and its key, several where modules share it."""
        found: dict[int, list[tuple[dict[str, Any], str]]] = {}
        for module in self.task.modules():
            for slots in (module._parameters, module._buffers):
                for key, tensor in slots.items():
                    if tensor is not None:
                        found.setdefault(id(tensor), []).append((slots, key))
        named = (*self.task.named_parameters(), *self.task.named_buffers())
        return {name: found[id(tensor)] for name, tensor in named}

    def forward(self, batch: Mapping[str, Tensor]) -> Any:
        loss = self.task.training_step(batch, 0)
        plain, predictions, weighted = self.task.train_metrics.noted
        del self.task.train_metrics.noted
        return loss, plain, predictions, weighted


class _MemberFunctions(TorchFunctionMode):
    """Below vmap: dropout with each member's own numbers, and losses that take one float from each member."""

    def __init__(self, noise: Noise, slot: Tensor) -> None:
        super().__init__()
        self._noise, self._slot = noise, slot

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.dropout:
            return self._dropout(*args, **(kwargs or {}))
        if func is F.kl_div:  # has no batching rule of its own
            return _divergence(*args, **kwargs)
        if func is F.cross_entropy and isinstance((kwargs or {}).get("label_smoothing"), PerMember):
            return _smoothed_cross_entropy(*args, **kwargs)
        if func is F.huber_loss and isinstance((kwargs or {}).get("delta"), PerMember):
            return _huber(*args, **kwargs)
        return func(*args, **(kwargs or {}))

    def _dropout(self, values: Tensor, p: Any = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return values
        numbers = Draw.apply(self._slot, self._noise, p, tuple(values.shape))
        return drop(values, numbers, p.value if isinstance(p, PerMember) else p)


def _divergence(logarithms: Tensor, target: Tensor, reduction: str, log_target: bool, **_: Any) -> Tensor:
    """Σ p (log p − log q), mean over the batch, of log q = `logarithms`."""
    if reduction != "batchmean" or log_target:
        raise NotTheSame("kl_div other than with reduction='batchmean' and log_target=False")
    return (torch.xlogy(target, target) - target * logarithms).sum() / len(logarithms)


def _smoothed_cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: PerMember, reduction: str, **_: Any
) -> Tensor:
    """(1 − ε) · cross-entropy + ε · that of the uniform distribution: torch's definition of label smoothing ε."""
    if weight is not None or reduction != "mean":
        raise NotTheSame("cross_entropy with class weights, whose label_smoothing differs between the networks")
    uniform = -logits.log_softmax(1).mean()
    return (1 - label_smoothing) * F.cross_entropy(logits, target) + label_smoothing * uniform


def _huber(output: Tensor, target: Tensor, reduction: str, delta: PerMember, **_: Any) -> Tensor:
    """½e² where |e| ≤ δ, else δ(|e| − δ/2), of e = output − target."""
    if reduction != "none":
        raise NotTheSame("huber_loss with a reduction, whose delta differs between the networks")
    error = (output - target).abs()
    return torch.where(error <= delta.value, 0.5 * error.square(), delta * (error - 0.5 * delta.value))
