"""The metrics of one split over one epoch for many members at once: what `lhtx.tasks.metrics.SplitMetrics` computes for one.

Members share their batches, so labels are kept once; steps only append tensors on their device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lhtx.fused.step import StepResult
from lhtx.tasks.heads import Head
from lhtx.tasks.readout import predicted_class


class FusedMetrics:
    """Loss, accuracies and absolute errors of K members over a split, under the names of `SplitMetrics`.

    Args:
        heads: in the order of a batch's columns.
        names: those of the task's `SplitMetrics`, in its order.
    """

    def __init__(self, heads: Sequence[Head], names: Sequence[str]) -> None:
        self._heads, self._names = list(heads), tuple(names)
        self._samples = 0
        self._sums: Tensor | None = None  # of the losses that are means over samples, (K,)
        self._weighted: Tensor | None = None  # of the others (H, 2, K): loss times weight, weight
        self._index: list[Tensor] = []
        self._value: list[Tensor] = []
        self._predictions: list[list[Tensor]] = [[] for _ in heads]

    @torch.no_grad()
    def accumulate(self, result: StepResult, index: Tensor, value: Tensor) -> None:
        """Keep one step: `index` and `value` are the batch's (B, heads)."""
        samples = len(index)
        self._samples += samples
        total = result.plain_loss.detach() * samples
        self._sums = total if self._sums is None else self._sums + total
        if result.weighted:
            sums = torch.stack([torch.stack([mean.detach() * weight, weight]) for mean, weight in result.weighted])
            self._weighted = sums if self._weighted is None else self._weighted + sums
        self._index.append(index)
        self._value.append(value)
        for kept, predicted in zip(self._predictions, result.predictions, strict=True):
            kept.append(predicted.detach())

    @torch.no_grad()
    def compute(self) -> list[dict[str, float]]:
        """Each member's metrics by name; of no step none. Waits for the device, once."""
        if self._sums is None:
            return []
        index, value = torch.cat(self._index), torch.cat(self._value)
        columns = {"loss": self._sums.float() / self._samples}
        if self._weighted is not None:
            for total, weight in self._weighted.float():
                columns["loss"] = columns["loss"] + total / weight
        for column, head in enumerate(self._heads):
            predicted = torch.cat(self._predictions[column], dim=1)  # (K, N)
            if predicted.is_floating_point():
                position = predicted.float()
                predicted = predicted_class(position, head.spec.classes)
                error = head.value_of_position(position) - head.value_of_unit(value[:, column])
                columns[f"{head.name}_mae"] = error.abs().sum(1).float() / self._samples
            columns[f"{head.name}_acc"] = (predicted == index[:, column]).sum(1).float() / self._samples
        for measure in ("acc", "mae"):
            found = [columns[f"{head.name}_{measure}"] for head in self._heads if f"{head.name}_{measure}" in columns]
            if found:
                columns[measure] = found[0]
                columns[f"avg_{measure}"] = sum(each.double() for each in found) / len(found)
        rows = torch.stack([columns[name].double() for name in self._names], 1).tolist()
        return [dict(zip(self._names, row, strict=True)) for row in rows]
