"""The tensors of many networks as one: what is a parameter of shape (…) in each is a row of a tensor (K, …).

The networks keep working by themselves: their parameters and buffers are views of the rows. Knows no loss and no optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Stack:
    """The parameters and buffers of K modules of one architecture, stacked; the modules' own become views of the rows.

    Args:
        modules: of the same names and shapes.

    Attributes:
        trained: name → (K, …), leaves that require a gradient.
        fixed: name → (K, …), of the other parameters and of the buffers; a forward pass may change them in place.
        rows: of each module, its part of `trained`, in that order.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        self.trained: dict[str, Tensor] = {}
        self.fixed: dict[str, Tensor] = {}
        for name, parameter in modules[0].named_parameters():
            own = [module.get_parameter(name) for module in modules]
            rows = torch.stack([each.detach().contiguous() for each in own])
            for each, row in zip(own, rows, strict=True):
                each.data = row
            if parameter.requires_grad:
                self.trained[name] = rows.requires_grad_()
            else:
                self.fixed[name] = rows
        for name, _ in modules[0].named_buffers():
            owner, _, key = name.rpartition(".")
            rows = torch.stack([module.get_buffer(name).contiguous() for module in modules])
            for module, row in zip(modules, rows, strict=True):
                module.get_submodule(owner)._buffers[key] = row
            self.fixed[name] = rows
        columns = [rows.detach().unbind(0) for rows in self.trained.values()]
        self.rows = list(zip(*columns, strict=True))

    def __len__(self) -> int:
        return len(self.modules)

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """The gradients (K, …) of the members' losses, (K,), in the order of `trained`; contiguous, as the rows are."""
        return tuple(each.contiguous() for each in torch.autograd.grad(loss.sum(), list(self.trained.values())))
