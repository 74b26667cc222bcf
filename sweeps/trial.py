"""One trial: a list of Hydra overrides in, `lhtx.train` run on them, a report after each validation out.

It must not know Ray, Optuna or where it runs: the same function serves a process of a cluster and `debug` in a terminal.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from omegaconf import DictConfig, OmegaConf

from lhtx.callbacks.logged_metrics import logged
from lhtx.compose import compose
from lhtx.epoch_report import EpochReport
from lhtx.train import train
from sweeps.channel import Channel
from sweeps.hydra_overrides import override
from sweeps.ledger import TrialFiles
from sweeps.relocation import Places, local, relocated


class Listener:
    """Who hears a trial's reports, and says of each whether the trial goes on: this one, that it does."""

    def hear(self, report: EpochReport) -> None:
        """Takes a report. There is no next one before this one's answer was taken."""

    def answered(self) -> bool:
        """Whether the answer to the last report is there."""
        return True

    def goes_on(self) -> bool:
        """The answer to the last report, waited for."""
        return True


class ChannelListener(Listener):
    """The one at the other end of a connection (`sweeps.process`)."""

    def __init__(self, channel: Channel, number: int) -> None:
        """Args: number: of the trial that reports."""
        self._channel, self._number = channel, number

    def hear(self, report: EpochReport) -> None:
        self._channel.send(report_message(self._number, report))

    def answered(self) -> bool:
        return self._channel.readable(0)

    def goes_on(self) -> bool:
        answer = self._channel.receive()
        return answer is not None and answer["go_on"]


class TrialStopped(Exception):
    """The sweep has decided that this trial ends here. No error: what was learnt stays in its last checkpoint."""


@dataclass(frozen=True)
class Assignment:
    """What a trial is to run: its number in the study, its overrides, and its directory (absolute).

    `places` says which of the driver's directories lie elsewhere on this node.
    """

    number: int
    overrides: tuple[str, ...]
    directory: str
    places: Places = ()

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Assignment:
        places = tuple((there, here) for there, here in message.get("places", ()))
        return cls(message["number"], tuple(message["overrides"]), message["directory"], places)


def report_message(number: int, report: EpochReport) -> dict[str, Any]:
    """How trial `number` reports an epoch to its sweep."""
    return {"kind": "report", "number": number, **asdict(report)}


def trial_config(assignment: Assignment) -> DictConfig:
    """The config of a trial; one that an earlier attempt has left a checkpoint of goes on from that."""
    files = TrialFiles(Path(assignment.directory))
    overrides = [
        *assignment.overrides,
        override("paths.output_dir", str(files.directory)),
        override("trainer.enable_progress_bar", False),
        override("trainer.enable_model_summary", False),
    ]
    continues = files.last_checkpoint.exists()
    print(f"trial {assignment.number} {f'goes on from {files.last_checkpoint}' if continues else 'begins'}", flush=True)
    if continues:
        overrides.append(override("ckpt_path", str(files.last_checkpoint)))
    return place_data(compose(overrides), assignment.places)


class SweepReport(Checkpoint):
    """Reports after each epoch that validated, and ends the trial where the answer says so.

    The trial trains on while its report is answered, which takes as long as some steps do. What comes of it does not depend on
    how long: an epoch's checkpoint is written in any case, and nothing of the next epoch (a report, a checkpoint, a failure)
    counts before the answer is known.

    It is a `Checkpoint` because Lightning calls those after the module has logged its epoch, in the order in which they
    stand: before the one that writes `last.ckpt`. A report can get lost in two ways, and neither leaves a gap: a trial killed
    before the checkpoint trains that epoch again, to the same values; if the sweep was interrupted before it had heard the
    report, but the checkpoint was written, the trial continues by saying again what the checkpoint holds.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._start = time.monotonic()
        self._validated = False
        self._asked = False
        self._last: EpochReport | None = None

    def state_dict(self) -> dict[str, Any]:
        return asdict(self._last) if self._last else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last = EpochReport(**state_dict) if state_dict else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._last:  # the last epoch may be another one than when the checkpoint was written
            self._tell(replace(self._last, max_epochs=trainer.max_epochs, seconds=0.0, repeated=True))
            self.heed()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._asked and self._listener.answered():
            self.heed()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.heed()  # before anything of this epoch is logged

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.heed()
        if not self._validated:
            return
        self._validated = False
        self._last = EpochReport(
            epoch=trainer.current_epoch + 1,
            max_epochs=trainer.max_epochs,
            parameters=sum(parameter.numel() for parameter in pl_module.parameters()),
            seconds=time.monotonic() - self._start,
            metrics=logged(trainer),
        )
        self._tell(self._last)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.heed()

    def _tell(self, report: EpochReport) -> None:
        self._listener.hear(report)
        self._asked = True

    def heed(self) -> None:
        """Wait for the answer to the last report, if that is not known yet. Raises TrialStopped: it ends the trial."""
        if self._asked:
            self._asked = False
            if not self._listener.goes_on():
                raise TrialStopped


class SweepPaths(Callback):
    """Lets checkpoints name the sweep's directory, not that of this node's copy: wherever they are read, their callbacks find
    the best one."""

    def __init__(self, places: Places) -> None:
        self._places = list(places)

    def add(self, places: Places) -> None:
        """Those of one more trial."""
        self._places += [place for place in places if place not in self._places]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for there, here in self._places:
            checkpoint["callbacks"] = relocated(checkpoint["callbacks"], here, there)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for there, here in self._places:
            checkpoint["callbacks"] = relocated(checkpoint["callbacks"], there, here)


def place_data(cfg: DictConfig, places: Places) -> DictConfig:
    """`cfg`, reading its data where this node has it."""
    for key in ("data.data_dir", "paths.data_dir"):  # in this order: the first may be said in terms of the second
        if isinstance(path := OmegaConf.select(cfg, key), str):
            OmegaConf.update(cfg, key, local(path, places))
    return cfg


def preload() -> None:
    """Import what nearly every trial imports late, and let Hydra read its configs once: a forked trial finds both done."""
    import torch.utils.tensorboard  # noqa: F401

    import lhtx.callbacks
    import lhtx.data
    import lhtx.losses
    import lhtx.nets
    import lhtx.tasks

    for name in lhtx.data.__all__:
        getattr(lhtx.data, name)  # late ones, too
    compose([])


def run_trial(assignment: Assignment, listener: Listener) -> dict[str, float]:
    """Train, from the last checkpoint if an earlier attempt left one, and return the final metrics.

    Raises:
        TrialStopped: the `listener` has ended it.
    """
    reports = SweepReport(listener)
    callbacks = [reports, *([SweepPaths(assignment.places)] if assignment.places else [])]
    try:
        return train(trial_config(assignment), callbacks=callbacks)
    except BaseException:
        reports.heed()  # what failed may be an epoch that should never have begun
        raise
