"""Optimizer steps of one member on its rows of the stacked parameters, by the kernels behind torch's `fused=True`.

Hyperparameters are read from the member's own torch optimizer at every step, so that any schedule which sets them works; its
state stays in the form that torch saves. One kernel call a member: on a CPU it is several times faster than elementwise
operations on all members' tensors, which leave the cache between two of them. Rows, gradients and states are contiguous: the
kernels look at no strides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

SUPPORTED = (Adam, AdamW, SGD)


def refusal(optimizer: Optimizer) -> str | None:
    """Why an optimizer cannot be used; None where it can."""
    if type(optimizer) not in SUPPORTED:
        return f"{type(optimizer).__name__} is not among {', '.join(kind.__name__ for kind in SUPPORTED)}"
    if any(group.get("differentiable") for group in optimizer.param_groups):
        return "differentiable=true"
    return None


class Update:
    """The steps of one member's optimizer (`torch.optim`: Adam, AdamW, SGD; their documentation has the formulas).

    Args:
        optimizer: the member's, whose hyperparameters are read and whose state is kept.
        parameters: those that are trained, in the order in which gradients come.
    """

    def __init__(self, optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
        self.optimizer = optimizer
        places = {id(each): place for place, each in enumerate(parameters)}
        self._groups = []
        for group in optimizer.param_groups:
            trained = [each for each in group["params"] if id(each) in places]
            if trained:
                self._groups.append((group, trained, [places[id(each)] for each in trained]))
        self._steps: list[Tensor | None] = [None] * len(self._groups)
        self._step = self._sgd if isinstance(optimizer, SGD) else self._adam

    def __call__(self, rows: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """One step. `rows`, the values of the parameters, are changed in place."""
        for number, (group, parameters, places) in enumerate(self._groups):
            self._step(number, group, parameters, [rows[place] for place in places], [gradients[place] for place in places])

    def _adam(
        self, place: int, group: dict[str, Any], parameters: list[Tensor], rows: list[Tensor], gradients: list[Tensor]
    ) -> None:
        states = [self.optimizer.state[each] for each in parameters]
        keys = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
        if self._steps[place] is None:
            for state, row in zip(states, rows, strict=True):
                for key in keys:  # of the rows' strides, which the kernels expect: another run's may lie in another order
                    state[key] = state[key].contiguous() if key in state else torch.zeros_like(row)
            # One counter for all of them, as they have taken the same steps; what is saved has one each.
            self._steps[place] = states[0].get("step", torch.zeros((), device=rows[0].device)).clone()
            for state in states:
                state["step"] = self._steps[place]
        self._steps[place] += 1
        first, second, *largest = ([state[key] for state in states] for key in keys)
        beta1, beta2 = group["betas"]
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        kernel(
            rows,
            gradients,
            first,
            second,
            largest[0] if largest else [],
            [self._steps[place]] * len(rows),
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )

    def _sgd(
        self, place: int, group: dict[str, Any], parameters: list[Tensor], rows: list[Tensor], gradients: list[Tensor]
    ) -> None:
        buffers: list[Tensor] = []
        first = False
        if group["momentum"] != 0:
            states = [self.optimizer.state[each] for each in parameters]
            first = states[0].get("momentum_buffer") is None
            for state, row in zip(states, rows, strict=True):
                state["momentum_buffer"] = torch.empty_like(row) if first else state["momentum_buffer"].contiguous()
            buffers = [state["momentum_buffer"] for state in states]
        torch._fused_sgd_(
            rows,
            gradients,
            buffers,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            is_first_step=first,
        )
