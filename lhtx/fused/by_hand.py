"""Networks of linear layers written out for all members at once: what `torch.vmap` does in general, faster for these.

A `Stacked` tensor holds (K, …) and stands for K tensors of shape (…): a function that it is passed to is looked up in the
rules below. What has no rule raises `NoRule`, and the network is left to vmap. Knows no network by name.

Activations of linear layers lie as (K, features, samples): the first layer of all members, which read the same samples, is
then a single matrix product, and the softmax over a few classes works on whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lhtx.fused.noise import Noise, drop
from lhtx.fused.per_member import PerMember


class NoRule(NotImplementedError):
    """A function that a network calls has none."""


class Stacked(Tensor):
    """(K, …) as K tensors of shape (…), one for each member."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = RULES.get(func)
        if rule is None:
            raise NoRule(getattr(func, "__name__", str(func)))
        with torch._C.DisableTorchFunctionSubclass():
            return rule(*args, **(kwargs or {}))


def stacked(tensor: Tensor) -> Stacked:
    return tensor.as_subclass(Stacked)


_noise: list[Noise] = []


@contextmanager
def drawing(noise: Noise):
    """Dropout draws from `noise` in this block."""
    _noise.append(noise)
    try:
        yield
    finally:
        _noise.pop()


def _rank(value: Any) -> int:
    """Dimensions of what a number or tensor is for one member."""
    return value.ndim - isinstance(value, Stacked) if isinstance(value, Tensor) else 0


def _aligned(value: Any, rank: int) -> Any:
    """`value`, with dimensions of size 1 after the members' so that it broadcasts with stacked tensors of a rank."""
    if isinstance(value, PerMember):
        value = value.value
    if isinstance(value, Stacked):
        own = _rank(value)
        return value.as_subclass(Tensor).reshape(len(value), *[1] * (rank - own), *value.shape[1:])
    return value


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Stacked]:
    def rule(*args: Any, **options: Any) -> Stacked:
        rank = max(map(_rank, args))
        return stacked(function(*(_aligned(each, rank) for each in args), **options))

    return rule


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Stacked:
    if not isinstance(weight, Stacked) or not isinstance(bias, Stacked) or _rank(values) != 2:
        raise NoRule("linear on other than (B, F), or without a bias")
    members, size = weight.shape[:2]
    if isinstance(values, Stacked):
        found = torch.baddbmm(bias[:, :, None], weight, values.transpose(1, 2))
    else:
        found = torch.addmm(bias.reshape(-1, 1), weight.reshape(members * size, -1), values.t()).view(members, size, -1)
    return stacked(found.transpose(1, 2))


def _batch_norm(
    values: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Stacked:
    if _rank(values) != 2 or not isinstance(values, Stacked):
        raise NoRule("batch_norm on other than (B, F)")
    members, samples, size = values.shape
    parts = [None if each is None else each.view(-1) for each in (mean, variance, weight, bias)]  # views: changed in place
    flat = values.transpose(1, 2).reshape(1, members * size, samples)
    found = F.batch_norm(flat, *parts, training, momentum, eps)
    return stacked(found.view(members, size, samples).transpose(1, 2))


def _dropout(values: Tensor, p: Any = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if not training or (not isinstance(p, PerMember) and p == 0):
        return values
    numbers = _noise[-1].numbers(p, values.shape[1:])
    return stacked(drop(values.as_subclass(Tensor), numbers, _aligned(p, values.ndim - 1)))


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Stacked:
    if not all(isinstance(each, Stacked) for each in tensors):
        raise NoRule("cat of tensors of which some are the same for all members")
    return stacked(torch.cat(list(tensors), dim + 1 if dim >= 0 else dim))


def _cross_entropy(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, label_smoothing: Any = 0.0, **options: Any
) -> Stacked:
    if weight is not None or isinstance(label_smoothing, PerMember) or options.get("reduction", "mean") != "mean":
        raise NoRule("cross_entropy with class weights, another label smoothing for each member, or another reduction")
    if isinstance(target, Stacked):
        target = target.as_subclass(Tensor).transpose(1, 2)
    else:
        target = target.expand(len(logits), -1) if target.ndim == 1 else target.t().expand(len(logits), -1, -1)
    found = F.cross_entropy(logits.transpose(1, 2), target, reduction="none", label_smoothing=label_smoothing)
    return stacked(found.mean(1))


def _max(values: Stacked, dim: int) -> tuple[Stacked, Stacked]:
    largest, index = torch.max(values, dim + 1 if dim >= 0 else dim)
    return stacked(largest), stacked(index)


def _getitem(table: Tensor, index: Any) -> Stacked:
    if not isinstance(table, Stacked) or isinstance(index, Stacked) or not isinstance(index, Tensor):
        raise NoRule("an index other than a tensor")
    return stacked(table[:, index])


def _cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype == dtype else stacked(values.to(dtype))


RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.dropout: _dropout,
    F.cross_entropy: _cross_entropy,
    torch.cat: _cat,
    Tensor.max: _max,
    Tensor.__getitem__: _getitem,
    Tensor.to: _cast,
    Tensor.detach: lambda values: stacked(values.detach()),
    Tensor.dim: _rank,
    Tensor.ndim.__get__: _rank,
    Tensor.shape.__get__: lambda values: values.shape[1:],
    Tensor.dtype.__get__: lambda values: values.dtype,
    Tensor.device.__get__: lambda values: values.device,
    Tensor.masked_fill_: lambda values, mask, value: stacked(values.masked_fill_(mask, value)),
    Tensor.add_: lambda values, other: stacked(values.add_(other)),
    **{function: _elementwise(function) for function in (F.relu, F.gelu, F.silu, torch.tanh, torch.sigmoid)},
    **{function: _elementwise(function) for function in (Tensor.sigmoid, Tensor.tanh, Tensor.relu)},
    **{function: _elementwise(torch.add) for function in (Tensor.__add__, Tensor.add)},
    **{function: _elementwise(torch.sub) for function in (Tensor.__sub__, Tensor.sub)},
    **{function: _elementwise(torch.mul) for function in (Tensor.__mul__, Tensor.mul)},
    **{function: _elementwise(torch.div) for function in (Tensor.__truediv__, Tensor.div)},
    **{function: _elementwise(torch.ne) for function in (Tensor.__ne__, Tensor.ne)},
}
"""What a function of torch does with stacked tensors. A rule gets the function's own arguments."""
