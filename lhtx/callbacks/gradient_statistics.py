"""Gathers gradients while a network trains and logs their statistics; the arithmetic is in `lhtx.gradients`."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer

from lhtx.callbacks.step_log import recorded, write
from lhtx.errors import ConfigError
from lhtx.gradients import (
    ACROSS_NETWORK,
    ACROSS_STEPS,
    cosine,
    layers,
    network_statistics,
    noise_statistics,
    norm_statistics,
    scope_sums,
    tensor_norms,
)

NETWORK = "network"
PREFIX = "grad"


class GradientStatistics(Callback):
    """Statistics of the gradient, as it is after unscaling and before clipping.

    On the hot path a step costs one `_foreach_norm`, one `stack` and one `_foreach_add_`; nothing leaves the device before
    the epoch ends, when everything is read back at once.

    Names, per epoch, in `trainer.callback_metrics`:

    - `grad/norm_mean`, `grad/norm_std`, `grad/norm_ratio`: over the parameter tensors, averaged over the epoch's steps;
      `grad/norm_max`, `grad/norm_min`: the extremes of any tensor at any step.
    - `grad/snr`, `grad/evidence`, `grad/noise_scale`, `grad/epoch_mean`, `grad/epoch_std`, `grad/stability`, `grad/cosine`:
      across the epoch's steps, of the whole network's gradient.
    - `grad/finite`: 1.0 if every gradient of the epoch was finite, else 0.0.

    To the loggers go: the statistics across the network step by step, the others once an epoch, and each of them per layer
    as `grad/{name}/{layer}` (of those across the network `norm_mean`).

    Every name is there after every epoch. What is undefined is NaN: `snr`, `evidence`, `noise_scale` and `stability` of an
    epoch of fewer than two steps, `noise_scale` of a gradient that is all noise, `cosine` of the first epoch. So a NaN says
    nothing by itself; that a run has broken is told by `grad/finite`, `grad/norm_max` and `grad/epoch_mean`. With float16
    loss scaling the steps that the scaler skips count as not finite.

    Of several processes each sees the gradient after it was averaged over all of them, so all have the same statistics:
    those of a step of all their samples together.

    Momentum and Adam step along an average of gradients, so evidence read as "nothing left to learn" is a heuristic there.

    Args:
        log_every_n_steps: every how many optimizer steps the statistics across the network are recorded for the loggers.
        every_k_steps: every k-th optimizer step of an epoch counts for the epoch's values.
        across_network: whether to compute the statistics across the network.
        across_steps: whether to compute those across steps; they need a second and third copy of the gradient's size.
        per_layer: whether the loggers also get them per layer.
        histograms: whether TensorBoard gets a histogram of each layer's gradient at every recorded step.

    Raises:
        ConfigError: a count below 1, nothing to compute, or histograms without a TensorBoard logger.
    """

    def __init__(
        self,
        log_every_n_steps: int = 50,
        every_k_steps: int = 1,
        across_network: bool = True,
        across_steps: bool = True,
        per_layer: bool = True,
        histograms: bool = False,
    ) -> None:
        for name, count in (("log_every_n_steps", log_every_n_steps), ("every_k_steps", every_k_steps)):
            if count < 1:
                raise ConfigError(f"GradientStatistics: {name} is {count}, expected 1 or more")
        if not (across_network or across_steps):
            raise ConfigError("GradientStatistics: across_network and across_steps are both off; leave the callback out")
        self.log_every_n_steps = log_every_n_steps
        self.every_k_steps = every_k_steps
        self.across_network = across_network
        self.across_steps = across_steps
        self.per_layer = per_layer
        self.histograms = histograms
        self._previous: dict[str, Tensor] | None = None  # the mean gradient of the epoch before, by parameter name
        self._names: list[str] = []
        self._parameters: list[torch.nn.Parameter] = []

    def metric_names(self) -> tuple[str, ...]:
        """Every name that `trainer.callback_metrics` has after an epoch."""
        names = (ACROSS_NETWORK if self.across_network else ()) + (ACROSS_STEPS if self.across_steps else ())
        return tuple(f"{PREFIX}/{name}" for name in (*names, "finite"))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        has_board = any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)
        if stage == "fit" and self.histograms and not (has_board or trainer.fast_dev_run):
            raise ConfigError("GradientStatistics: histograms=true needs a TensorBoard logger, and the run has none")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset(pl_module)  # a run resumed in mid-epoch has no start of that epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._reset(pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._pending += _samples(batch)

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        counts = self._steps % self.every_k_steps == 0
        records = bool(trainer.loggers) and recorded(trainer, self.log_every_n_steps)
        samples, self._pending = self._pending, 0
        self._steps += 1
        if not (counts or records):
            return
        # A parameter that took no part in the step has no gradient, which is a gradient of zero.
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        if records:
            self._recorded.append((len(self._norms), trainer.global_step))
            if self.histograms:
                self._log_histograms(trainer, gradients)
        if counts:
            self._counted.append(len(self._norms))
            self._samples += samples
            if self.across_steps:
                self._add(gradients)
        self._norms.append(tensor_norms(gradients))

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._norms:
            return
        norms = torch.stack(self._norms).cpu().double()
        if self.across_network and self._recorded:
            self._log_steps(trainer, norms)
        counted = norms[self._counted]
        values = {"finite": torch.isfinite(counted).all().double()}
        if self.across_network:
            steps = network_statistics(counted)
            values |= {name: steps[name].mean() for name in ("norm_mean", "norm_std", "norm_ratio")}
            values |= {"norm_max": steps["norm_max"].amax(), "norm_min": steps["norm_min"].amin()}
        if self.across_steps:
            by_scope = self._across_steps(counted, trainer.world_size)
            values |= {name: value[0] for name, value in by_scope.items()}
            self._log_across_steps(trainer, by_scope)
        # As Lightning's own monitors do it: `self.log` would cost more than all of the above, and every process has the same.
        trainer.callback_metrics.update({f"{PREFIX}/{name}": value.float() for name, value in values.items()})
        self._norms, self._sums = [], None

    def state_dict(self) -> dict[str, Any]:
        return {"previous": self._previous}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._previous = state_dict["previous"]

    def _reset(self, pl_module: LightningModule) -> None:
        named = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
        self._names, self._parameters = [name for name, _ in named], [p for _, p in named]
        self._scopes = {NETWORK: list(range(len(named))), **layers(self._names)}
        self._sums: list[Tensor] | None = None
        self._norms: list[Tensor] = []  # of the steps that count or are recorded
        self._counted: list[int] = []  # positions in _norms
        self._recorded: list[tuple[int, int]] = []  # positions in _norms, and their global steps
        self._steps = self._samples = self._pending = 0

    def _add(self, gradients: list[Tensor]) -> None:
        if self._sums is None:
            dtypes = [torch.promote_types(g.dtype, torch.float32) for g in gradients]
            self._sums = [g.to(dtype, copy=True) for g, dtype in zip(gradients, dtypes, strict=True)]
        else:
            torch._foreach_add_(self._sums, gradients)

    def _across_steps(self, norms: Tensor, world_size: int) -> dict[str, Tensor]:
        """Every statistic across steps for every scope, shape (S,), from the norms (K, P) and the accumulated sums."""
        steps = len(norms)
        means = torch._foreach_div(self._sums, steps)
        named = dict(zip(self._names, means, strict=True))
        previous, self._previous = self._previous, named
        squares = scope_sums(tensor_norms(means).cpu().double() ** 2, self._scopes)
        statistics = noise_statistics(
            mean_square=squares,
            sum_of_squares=scope_sums((norms**2).sum(0), self._scopes),
            steps=steps,
            batch_size=self._samples * world_size / steps,
        )
        statistics |= norm_statistics(scope_sums(norms**2, self._scopes).sqrt())
        statistics["cosine"] = torch.full_like(squares, math.nan)
        if previous is not None and previous.keys() == named.keys():
            last = [previous[name].to(mean) for name, mean in named.items()]
            dots = torch.stack([product.sum() for product in torch._foreach_mul(means, last)]).cpu().double()
            last_squares = scope_sums(tensor_norms(last).cpu().double() ** 2, self._scopes)
            statistics["cosine"] = cosine(scope_sums(dots, self._scopes), squares, last_squares)
        return {name: statistics[name] for name in ACROSS_STEPS}

    def _log_steps(self, trainer: Trainer, norms: Tensor) -> None:
        """The statistics across the network of every recorded step, each at its own step."""
        recorded_norms = norms[[position for position, _ in self._recorded]]
        columns = network_statistics(recorded_norms)
        if self.per_layer:
            layer_positions = {name: positions for name, positions in self._scopes.items() if name != NETWORK}
            columns |= {f"norm_mean/{name}": recorded_norms[:, at].mean(-1) for name, at in layer_positions.items()}
        rows = torch.stack(list(columns.values()), -1).tolist()
        for (_, step), row in zip(self._recorded, rows, strict=True):
            _log(trainer, dict(zip(columns, row, strict=True)), step)

    def _log_across_steps(self, trainer: Trainer, by_scope: dict[str, Tensor]) -> None:
        """The statistics across steps, of the network and of every layer, at the epoch's last step."""
        columns = {name: values.tolist() for name, values in by_scope.items()}
        values = {name: column[0] for name, column in columns.items()}
        if self.per_layer:
            for position, layer in enumerate(self._scopes):
                if layer != NETWORK:
                    values |= {f"{name}/{layer}": column[position] for name, column in columns.items()}
        _log(trainer, values, trainer.global_step - 1)

    def _log_histograms(self, trainer: Trainer, gradients: list[Tensor]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for layer, positions in self._scopes.items():
                    if layer != NETWORK:
                        flat = torch.cat([gradients[position].flatten() for position in positions])
                        logger.experiment.add_histogram(f"{PREFIX}/{layer}", flat, trainer.global_step)


def _log(trainer: Trainer, values: dict[str, float], step: int) -> None:
    write(trainer, {f"{PREFIX}/{name}": value for name, value in values.items()}, step)


def _samples(batch: Any) -> int:
    """The size of a batch: the first dimension of the first tensor in it, 0 if there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((size for size in map(_samples, parts) if size), 0)
