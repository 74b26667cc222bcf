"""The metrics of one split over one epoch. Steps only append tensors on their device; torchmetrics runs once, at the end.

Logging every step through torchmetrics would cost several times the step of a small network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from lhtx.losses import Readout
from lhtx.tasks.heads import Head
from lhtx.tasks.readout import predicted_class


class SplitMetrics(nn.Module):
    """Loss, accuracies and absolute errors of a split, computed once an epoch from what the steps left.

    Every head has an accuracy, `{head}_acc`. A head read by expectation also has a mean absolute error in parameter units,
    `{head}_mae`. With one head they are `acc` and `mae` too; `avg_acc` and `avg_mae` are plain means over the heads.

    Args:
        heads: in the order of a batch's columns.
        readouts: for each head, whether its predictions are classes (`argmax`) or positions (`expectation`).
        weighted: how many heads have a loss that is a mean weighted by class; `accumulate` gets theirs apart.
    """

    def __init__(self, heads: Sequence[Head], readouts: Sequence[Readout], weighted: int = 0) -> None:
        super().__init__()
        self._heads = list(heads)
        self._classified = [column for column, readout in enumerate(readouts) if readout == "argmax"]
        self._expected = [column for column, readout in enumerate(readouts) if readout == "expectation"]
        # A loss that is not finite is to be seen. (A MeanMetric that does not look for NaN ignores the weights too.)
        # Numerators and denominators: of the heads whose loss is a mean over samples, then of each of the others.
        self.losses = nn.ModuleList(SumMetric(nan_strategy="disable") for _ in range(1 + weighted))
        self.weights = nn.ModuleList(SumMetric(nan_strategy="disable") for _ in range(1 + weighted))
        self.accuracies = nn.ModuleList(
            MulticlassAccuracy(head.spec.classes, average="micro", validate_args=False) for head in heads
        )
        self.errors = nn.ModuleList(MeanAbsoluteError() for _ in self._expected)
        self.reset()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that `compute` returns, in its order."""
        accuracies = [f"{head.name}_acc" for head in self._heads]
        errors = [f"{self._heads[column].name}_mae" for column in self._expected]
        single = len(self._heads) == 1
        return (
            "loss",
            *accuracies,
            *errors,
            *(["acc"] if single else []),
            *(["mae"] if single and errors else []),
            "avg_acc",
            *(["avg_mae"] if errors else []),
        )

    def reset(self) -> None:
        """Forget everything that was accumulated."""
        self._samples = 0
        self._loss_sum: Tensor | None = None
        self._weighted_sums: Tensor | None = None
        self._index: list[Tensor] = []
        self._value: list[Tensor] = []
        self._classes: list[Tensor] = []
        self._positions: list[Tensor] = []

    @torch.no_grad()
    def accumulate(
        self,
        loss: Tensor,
        predictions: Sequence[Tensor],
        index: Tensor,
        value: Tensor,
        weighted: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        """Keep one step, without waiting for the device.

        Args:
            loss: the sum over heads of the losses that are means over the step's samples, a scalar.
            predictions: for each head (B,): a class index (int64), or a position in class steps (float).
            index, value: the batch's true class indices (B, heads) and units (B, heads).
            weighted: of every other head, in the same order each step: its loss, and the sum of its samples' weights by
                which that mean is divided, scalars.
        """
        samples = len(index)
        self._samples += samples
        total = loss.detach() * samples
        self._loss_sum = total if self._loss_sum is None else self._loss_sum + total
        if weighted:
            sums = torch.stack([torch.stack([mean.detach() * weight, weight]) for mean, weight in weighted])
            self._weighted_sums = sums if self._weighted_sums is None else self._weighted_sums + sums
        self._index.append(index)
        if self._classified:
            self._classes.append(torch.stack([predictions[column] for column in self._classified], dim=1))
        if self._expected:
            self._positions.append(torch.stack([predictions[column].detach() for column in self._expected], dim=1))
            self._value.append(value)

    @torch.no_grad()
    def compute(self) -> dict[str, float]:
        """The epoch's metrics by name, empty if there was no step; then `reset`. Waits for the device, once.

        Of several processes every one calls it and gets the same: the metrics of all their samples together.
        """
        if self._loss_sum is None:
            return {}
        self.losses[0].update(self._loss_sum)
        self.weights[0].update(self._samples)
        if self._weighted_sums is not None:
            for head, (loss, weight) in enumerate(self._weighted_sums, start=1):
                self.losses[head].update(loss)
                self.weights[head].update(weight)
        index = torch.cat(self._index)
        if self._classified:
            classes = torch.cat(self._classes)
            for place, column in enumerate(self._classified):
                self.accuracies[column].update(classes[:, place], index[:, column])
        if self._expected:
            positions, units = torch.cat(self._positions).float(), torch.cat(self._value)
            for place, column in enumerate(self._expected):
                head, position = self._heads[column], positions[:, place]
                self.accuracies[column].update(predicted_class(position, head.spec.classes), index[:, column])
                self.errors[place].update(head.value_of_position(position), head.value_of_unit(units[:, column]))
        metrics = [*self.losses, *self.weights, *self.accuracies, *self.errors]
        numbers = torch.stack([metric.compute() for metric in metrics]).tolist()
        for metric in metrics:
            metric.reset()
        self.reset()
        terms = len(self.losses)
        loss = sum(total / weight for total, weight in zip(numbers[:terms], numbers[terms : 2 * terms], strict=True))
        numbers = numbers[2 * terms :]
        accuracies, errors = numbers[: len(self.accuracies)], numbers[len(self.accuracies) :]
        single = len(self._heads) == 1
        values = [loss, *numbers, *(accuracies if single else []), *(errors if single else [])]
        values += [_mean(accuracies), *([_mean(errors)] if errors else [])]
        return dict(zip(self.names, values, strict=True))


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
