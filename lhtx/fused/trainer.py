"""Trains a group of networks as one: the loop over epochs and batches, who takes part in it, and what each one reports.

It must not know what a report is for: whoever calls it decides which member goes on and which config takes a place.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, open_dict

from lhtx.callbacks import GradientStatistics
from lhtx.checkpoints import INPUT_CONSTANTS, load_checkpoint
from lhtx.compose import configure
from lhtx.epoch_report import EpochReport
from lhtx.errors import ConfigError
from lhtx.extras import enforce_tags, quieten
from lhtx.fused.clipping import Clipping
from lhtx.fused.compatibility import alike, differences, trial
from lhtx.fused.gradient_statistics import FusedGradients
from lhtx.fused.member import Member, prepared
from lhtx.fused.metrics import FusedMetrics
from lhtx.fused.noise import Noise
from lhtx.fused.setting import Setting, Split
from lhtx.fused.stack import Stack
from lhtx.fused.step import FusedStep


@dataclass(frozen=True)
class Result:
    """What a member comes to: its final metrics, those of the test included, and the seconds that it took since its (last)
    start."""

    metrics: dict[str, float]
    seconds: float


Report = Callable[[Mapping[int, EpochReport]], Collection[int]]
Finished = Callable[[Mapping[int, Result]], None]


def _go_on(reports: Mapping[int, EpochReport]) -> Collection[int]:
    return ()


def _finished(results: Mapping[int, Result]) -> None:
    pass


class FusedTrainer:
    """Networks of one architecture that train as one, each as `lhtx.train` would train it on the same batches.

    Every member writes into its `paths.output_dir` what a run of its own leaves: `config.yaml`, checkpoints, `metrics.json`,
    and the loggers' files, without what is logged of single steps and layers. Killed at any instant, each one goes on from
    its own `last.ckpt`, in a group or by itself.

    What a member sees and draws follows from its config alone: its k-th epoch takes the order of batches number
    `data.first_order` + k of `data.seed`. One that joins late gets the `first_order` that the group has come to. Members that
    are behind the others, as after a kill between two checkpoints, train by themselves until they are level.

    Args:
        configs: composed; `ckpt_path` continues. All get the `data.seed` of the first one that continues, else of the first.
        report: is told of every epoch that validated, before the checkpoints are written: of all members that were in it,
            member → report. It returns those that end here, and may call `add`. Seconds are a member's share: what an epoch of
            four members takes counts a quarter for each.
        finished: is told of members that have trained all their epochs: member → result. It may call `add`.
        callbacks: of which `on_save_checkpoint` and `on_load_checkpoint` are called, with a Trainer that trains nothing.

    Raises:
        ConfigError: the networks cannot train as one (`lhtx.fused.can_fuse`), or a config cannot at all.
        DatasetError, CheckpointError: as `lhtx.train`.
    """

    def __init__(
        self,
        configs: Sequence[DictConfig],
        report: Report = _go_on,
        finished: Finished = _finished,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        if not configs:
            raise ConfigError("a group needs one config at least")
        self._report, self._finished, self._callbacks = report, finished, callbacks
        self._count = self._reached = 0
        self.by_hand = True
        self._cohort: list[Member] = []
        with warnings.catch_warnings():
            _quieten(configs[0])
            configs = [prepared(configure(cfg)) for cfg in configs]
            first = next((cfg for cfg in configs if cfg.ckpt_path), configs[0])
            for cfg in configs:
                _use_orders(cfg, first.data.seed)
            _refuse(differences(configs))
            self._reference = configs[0]
            self._setting = Setting(first, _constants(first))
            self._noise = Noise(self._setting.device)
            self._members: list[Member] = []
            members = [self._build(cfg) for cfg in configs]
            self._refuse_unlike(members)
            self._members = members
            self._reached = max(member.order for member in members)

    def add(self, cfg: DictConfig) -> int:
        """A network that joins with the next epoch, which is its first or, with `ckpt_path`, its next one.

        Args:
            cfg: composed. A first epoch takes the order of batches that the group has come to, unless `data.first_order` names
                another.

        Returns:
            its number; those of the first configs are their places, and every later one is the next.

        Raises:
            ConfigError, CheckpointError: as for the first ones; the group stays as it is.
        """
        with warnings.catch_warnings():
            _quieten(cfg)
            cfg = prepared(configure(cfg))
            if not cfg.ckpt_path and not cfg.data.first_order:
                with open_dict(cfg):
                    cfg.data.first_order = self._reached
            _use_orders(cfg, self._setting.order_seed)
            _refuse(differences([self._reference, cfg]))
            member = self._build(cfg)
            if self._members:
                self._refuse_unlike([self._members[0], member])
            self._members.append(member)
        return member.number

    def fit(self) -> dict[int, dict[str, float]]:
        """Train until every member has trained all its epochs or was stopped; the final metrics of those that have."""
        results: dict[int, dict[str, float]] = {}
        with warnings.catch_warnings():
            _quieten(self._reference)
            while self._members:
                ended = self._tell([member for member in self._members if member.resumed and member.metrics], repeated=True)
                for member in self._members:
                    member.resumed = False
                self._members = [member for member in self._members if member not in ended]
                done = [member for member in self._members if member.done]
                if done:
                    results |= self._finish(done)
                elif self._members:
                    order = min(member.order for member in self._members)
                    self._epoch([member for member in self._members if member.order == order], order)
        return results

    def _build(self, cfg: DictConfig) -> Member:
        enforce_tags(cfg)
        member = Member(self._count, cfg, self._setting, self._callbacks)
        self._count += 1
        return member

    def _refuse_unlike(self, members: Sequence[Member]) -> None:
        tasks = [member.task for member in members]
        reasons, numbers = alike(tasks)
        _refuse(reasons)
        reasons, by_hand = trial(tasks, numbers, self._reference.dataset)
        _refuse(reasons)
        self.by_hand = self.by_hand and by_hand

    def _gather(self, members: list[Member]) -> tuple[Stack, FusedStep]:
        """The members' tensors as one, kept as long as they are the same members."""
        if members != self._cohort:
            tasks = [member.task for member in members]
            self._stack = Stack(tasks)
            self._step = FusedStep(tasks[0], alike(tasks)[1], self._noise, self.by_hand)
            self._clip = Clipping([member.cfg.trainer for member in members], self._setting.device)
            self._cohort = members
        return self._stack, self._step

    def _epoch(self, members: list[Member], order: int) -> None:
        start = time.monotonic()
        stack, step = self._gather(members)
        settings = next((each for each in members[0].callbacks if isinstance(each, GradientStatistics)), None)
        gathered = FusedGradients(settings, stack.trained) if settings else None
        metrics = self._metrics(members)
        self._noise.begin([member.entropy for member in members])
        for member in members:
            member.begin_epoch()
        for batch in self._setting.batches("train", order):
            with self._setting.computing():
                result = step(stack, batch, training=True)
            metrics.accumulate(result, batch["index"], batch["value"])
            gradients = stack.gradients(result.loss)
            if gathered:
                gathered.add(gradients, len(batch["index"]))
            self._clip(gradients)
            for member, rows, own in zip(
                members, stack.rows, zip(*(each.unbind(0) for each in gradients), strict=True), strict=True
            ):
                member.update(rows, own)
                member.step_schedule("step")
        for member in members:
            member.step_schedule("epoch")
        validated = self._end_epoch(members, metrics.compute(), gathered)
        for member in members:
            member.seconds += (time.monotonic() - start) / len(members)
        self._reached = max(self._reached, *(member.order for member in members))
        ended = self._tell(validated)
        for member in members:
            member.save()
        self._members = [member for member in self._members if member not in ended]

    def _end_epoch(self, members: list[Member], train: list[dict[str, float]], gathered: FusedGradients | None) -> list[Member]:
        """Give the members what the epoch brought; those of them that validated."""
        due = [(member.epochs + 1) % self._setting.every_n_epochs == 0 for member in members]
        measured = self._measure("val", members) if any(due) else []
        validation = [found if now else None for found, now in zip(measured or [None] * len(members), due, strict=True)]
        statistics: list[dict[str, float]] = [{} for _ in members]
        if gathered:
            statistics, means = gathered.compute([member.means for member in members])
            for member, mean in zip(members, means, strict=True):
                member.means = mean
        for parts in zip(members, train, validation, statistics, strict=True):
            parts[0].end_epoch(*parts[1:])
        return [member for member, found in zip(members, validation, strict=True) if found is not None]

    def _tell(self, members: Sequence[Member], repeated: bool = False) -> list[Member]:
        """Report an epoch of some members; those that end with it."""
        if not members:
            return []
        ended = self._report({member.number: member.report(repeated) for member in members})
        return [member for member in members if member.number in ended]

    def _finish(self, members: list[Member]) -> dict[int, dict[str, float]]:
        """Test the best checkpoints of members that have trained all their epochs."""
        start = time.monotonic()
        for member in members:
            member.load_best()
        found = self._measure("test", members) if any(member.cfg.test for member in members) else []
        results = {}
        for place, member in enumerate(members):
            metrics = member.test(found[place] if found and member.cfg.test else None)
            results[member.number] = Result(metrics, member.seconds + (time.monotonic() - start) / len(members))
            self._members.remove(member)
        self._finished(results)
        return {number: result.metrics for number, result in results.items()}

    @torch.no_grad()
    def _measure(self, split: Split, members: list[Member]) -> list[dict[str, float]]:
        """The members' metrics of a whole split; none where it has no batches."""
        stack, step = self._gather(members)
        metrics = self._metrics(members)
        for batch in self._setting.batches(split):
            with self._setting.computing():
                metrics.accumulate(step(stack, batch, training=False), batch["index"], batch["value"])
        return metrics.compute()

    @staticmethod
    def _metrics(members: Sequence[Member]) -> FusedMetrics:
        task = members[0].task
        return FusedMetrics(task.heads, task.train_metrics.names)


def _quieten(cfg: DictConfig) -> None:
    quieten(cfg)
    # The optimizers' own `step` is never called: their kernels are.
    warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`")


def _refuse(reasons: Sequence[str]) -> None:
    if reasons:
        raise ConfigError("these networks cannot train as one: " + "; ".join(reasons))


def _use_orders(cfg: DictConfig, order_seed: int) -> None:
    """Give `cfg` the group's orders of batches; one that goes on has orders already, and they must be these."""
    if cfg.ckpt_path and cfg.data.seed != order_seed:
        raise ConfigError(
            f"{cfg.ckpt_path} was trained with data.seed={cfg.data.seed}, and this group with {order_seed}: its members share "
            "the order of batches; let it go on in a group of its own"
        )
    with open_dict(cfg):
        cfg.data.seed = order_seed


def _constants(cfg: DictConfig) -> dict[str, torch.Tensor] | None:
    """The state of the datamodule in the checkpoint that `cfg` goes on from."""
    if not cfg.ckpt_path:
        return None
    states = [each for each in load_checkpoint(cfg.ckpt_path).values() if isinstance(each, dict) and INPUT_CONSTANTS in each]
    return states[0] if states else None
