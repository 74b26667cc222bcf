"""The task of predicting several quantised parameters of an image at once: one loss a head, one network for all.

It pairs each head's loss with its target and its output, and says which metrics there are. It must not know where batches
come from, nor what watches the metrics.
"""

import operator
from collections.abc import Callable, Mapping
from math import inf, isfinite
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from lhtx.errors import CheckpointError, ConfigError
from lhtx.losses import CrossEntropy
from lhtx.nets.heads import Heads
from lhtx.tasks.heads import Head, parse_heads, weigh
from lhtx.tasks.metrics import SplitMetrics
from lhtx.tasks.objective import LossFactory, Objective, build_losses, require_soft_losses
from lhtx.tasks.optimization import (
    Interval,
    OptimizerFactory,
    SchedulerFactory,
    build_optimizer,
    build_schedule,
    check_interval,
    remember_base,
)

NOMINAL_STEPS = 1000
"""The length that a schedule is built for where there is no trainer to tell it, which is where its options are checked."""

BEST: Mapping[str, tuple[str, Callable[[float, float], bool], float]] = {
    "acc_best": ("avg_acc", operator.gt, -inf),
    "mae_best": ("avg_mae", operator.lt, inf),
}
"""Best value over the epochs → the validation metric it is the best of, what makes a value better, and where it starts."""


class MultiheadTask(LightningModule):
    """Trains a network whose heads each predict one parameter, by classification or by regression.

    Batches are dictionaries: `image` float32 (B, C, H, W), `index` int64 (B, heads), `value` float32 (B, heads) in [0, 1],
    and `auxiliary` float32 (B, F) where the network takes auxiliary features. Their columns are in the order of `heads`.

    The loss is Σ over heads of weight · loss. Metrics are logged once an epoch: those of `SplitMetrics`, under `train/`,
    `val/` and `test/`, and the best of `val/avg_acc` and `val/avg_mae` so far as `val/acc_best` and `val/mae_best`.

    Args:
        net: the network. It ends in a `lhtx.nets.heads.Heads`, its attribute `heads`, and has an `auxiliary_input_size`.
        heads: name → {classes, minimum, maximum, step}, as a dataset's spec gives them.
        target_width: width of soft targets in class steps; 0 trains on the class index. Above 0, one head at least must
            have a loss that takes soft targets.
        target_shape: shape of soft targets, a name of `lhtx.targets.SHAPES`.
        loss: what builds the loss of a head from its `classes` and `parameter_range`: a class of `lhtx.losses` or a
            partial of one; or a mapping from every head to such.
        head_weights: weight of each head's loss; heads not named weigh by their number of just-noticeable steps over the
            largest such number (see `lhtx.tasks.heads.weigh`).
        optimizer: builds the optimizer from the parameters.
        scheduler: builds a learning-rate schedule from the optimizer; it sees `val/loss` where it asks for a metric. One that
            takes `total_steps`, not given, is told how often it will be stepped in the run.
        scheduler_interval: when it steps: after every `epoch`, or after every `step` of the optimizer.
        decay_vectors: whether weight decay reaches biases, scales of normalisations and other vectors too.
        compile: compile the network with `torch.compile` when fitting.
        channels_last: keep images and convolutions in the channels-last memory format, which is faster for small
            convolutional networks on a CPU and slower for networks without convolutions.

    Raises:
        ConfigError: where network, heads, losses, weights and targets do not fit together.
    """

    def __init__(
        self,
        net: nn.Module,
        heads: Mapping[str, Mapping[str, Any]],
        target_width: float = 0.0,
        target_shape: str = "gaussian",
        loss: LossFactory | Mapping[str, LossFactory] = CrossEntropy,
        head_weights: Mapping[str, float] | None = None,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        scheduler: SchedulerFactory | None = None,
        scheduler_interval: Interval = "epoch",
        decay_vectors: bool = True,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        check_interval(scheduler_interval)
        self.heads = parse_heads(heads)
        _require_fitting(net, self.heads)
        losses = build_losses(loss, self.heads, net.heads.kind)
        require_soft_losses(losses, target_width)
        weights = weigh(self.heads, head_weights)
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.objectives = nn.ModuleList(
            Objective(head, loss, weight, target_width, target_shape)
            for head, loss, weight in zip(self.heads, losses, weights, strict=True)
        )
        readouts = [loss.readout for loss in losses]
        none = torch.zeros(0, dtype=torch.int64)
        self._weighted = [column for column, each in enumerate(self.objectives) if each.sample_weights(none) is not None]
        self.train_metrics, self.val_metrics, self.test_metrics = (
            SplitMetrics(self.heads, readouts, len(self._weighted)) for _ in range(3)
        )
        self._best = {name: start for name, (metric, _, start) in BEST.items() if metric in self.val_metrics.names}
        self._optimizer, self._decay_vectors = optimizer, decay_vectors
        self._scheduler, self._scheduler_interval = scheduler, scheduler_interval
        self._compile, self._channels_last = compile, channels_last

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes the hook that it is in some fifty times a step: nothing that a module has to look at."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def metric_names(self) -> tuple[str, ...]:
        """Every name that this task ever logs, known before it trains."""
        splits = {"train": self.train_metrics, "val": self.val_metrics, "test": self.test_metrics}
        names = [f"{split}/{name}" for split, metrics in splits.items() for name in metrics.names]
        return (*names, *(f"val/{name}" for name in self._best))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each head's output for a batch: logits (B, classes), or (B, 1) in [0, 1]. Labels are not looked at.

        Raises:
            ConfigError: where the network takes auxiliary features and the batch has none.
        """
        image = batch["image"]
        if self._channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        if self.net.auxiliary_input_size == 0:
            output = self.net(image)
        elif "auxiliary" in batch:
            output = self.net(image, batch["auxiliary"])
        else:
            raise ConfigError(
                f"the network takes {self.net.auxiliary_input_size} auxiliary features and the batch has none; choose "
                "auxiliary features in the data, or build the network with auxiliary_input_size=0"
            )
        return {self.heads[0].name: output} if isinstance(output, Tensor) else output

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, self.train_metrics)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        self._step(batch, self.val_metrics)

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        self._step(batch, self.test_metrics)

    def on_train_epoch_start(self) -> None:
        self.train_metrics.reset()

    def on_validation_epoch_start(self) -> None:
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        self.test_metrics.reset()

    def on_train_epoch_end(self) -> None:
        self._log_epoch("train", self.train_metrics.compute())

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return  # a few batches through a network that has not trained: neither a result nor a best
        values = self.val_metrics.compute()
        if not values:
            return
        self._log_epoch("val", self.with_best(values))

    def with_best(self, values: Mapping[str, float]) -> dict[str, float]:
        """The metrics `values` of a validation, and the best so far, these among them."""
        for name in self._best:
            metric, better, _ = BEST[name]
            if better(values[metric], self._best[name]):  # false for a value that is not a number
                self._best[name] = values[metric]
        return {**values, **self._best}

    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.test_metrics.compute())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best_metrics"] = dict(self._best)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        best = checkpoint.get("best_metrics")
        if best is None or best.keys() != self._best.keys():
            found = "none" if best is None else ", ".join(best)
            raise CheckpointError(
                f"the checkpoint was written by another task: its best_metrics are {found}, expected {', '.join(self._best)}"
            )
        self._best = dict(best)

    def setup(self, stage: str) -> None:
        if self._compile and stage == "fit":
            self.net.compile()  # in place, so that the names in the state dict stay as they are

    def configure_optimizers(self) -> Optimizer | dict[str, Any]:
        optimizer = build_optimizer(self._optimizer, self, self._decay_vectors)
        if self._scheduler is None:
            remember_base(optimizer)
            return optimizer
        schedule = build_schedule(self._scheduler, optimizer, self._scheduler_interval, self._schedule_steps)
        remember_base(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _schedule_steps(self) -> int:
        """How often a schedule is stepped in the whole run."""
        if self._trainer is None:
            return NOMINAL_STEPS
        trainer = self.trainer
        steps = trainer.max_epochs if self._scheduler_interval == "epoch" else trainer.estimated_stepping_batches
        if steps is None or not isfinite(steps) or steps < 1:
            raise ConfigError(
                f"the schedule needs total_steps, and trainer.max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps} "
                f"does not say how many {self._scheduler_interval}s there will be; give the schedule total_steps"
            )
        return int(steps)

    def _step(self, batch: Mapping[str, Tensor], metrics: SplitMetrics) -> Tensor:
        """The weighted loss of a batch. Nothing here may wait for the device."""
        outputs = self(batch)
        index, value = batch["index"], batch["value"]
        steps = [
            objective(outputs[head.name], index[:, column], value[:, column])
            for column, (head, objective) in enumerate(zip(self.heads, self.objectives, strict=True))
        ]
        losses, predictions = zip(*steps, strict=True)
        total = sum(losses[1:], start=losses[0])
        if self._weighted:
            weights = {column: self.objectives[column].sample_weights(index[:, column]).sum() for column in self._weighted}
            plain = [loss.detach() for column, loss in enumerate(losses) if column not in weights]
            weighted = [(losses[column], weight) for column, weight in weights.items()]
            metrics.accumulate(sum(plain, start=torch.zeros_like(total)), predictions, index, value, weighted)
        else:
            metrics.accumulate(total, predictions, index, value)
        return total

    def _log_epoch(self, split: str, values: Mapping[str, float]) -> None:
        """Log a split's metrics under its name; its loss and mean accuracy show in the progress bar.

        They are those of all processes already. Lightning is told to take their mean all the same, as it warns otherwise.
        """
        shown = ("loss", "avg_acc")
        self.log_dict({f"{split}/{name}": values[name] for name in shown if name in values}, prog_bar=True, sync_dist=True)
        self.log_dict({f"{split}/{name}": value for name, value in values.items() if name not in shown}, sync_dist=True)


def _require_fitting(net: nn.Module, heads: list[Head]) -> None:
    """Raise a `ConfigError` unless the network ends in just these heads, each with a readout for its classes."""
    if not isinstance(getattr(net, "heads", None), Heads) or not hasattr(net, "auxiliary_input_size"):
        raise ConfigError(
            f"{type(net).__name__} is no network of this task: it needs an attribute heads that is a lhtx.nets.heads.Heads, "
            "and an auxiliary_input_size"
        )
    expected = {head.name: head.spec.classes for head in heads}
    if net.heads.sizes != expected:
        raise ConfigError(f"the network was built for the heads {net.heads.sizes} and the task has {expected}")
