"""Ends a run whose monitored metric gains nothing any more, in a way that a resumed run repeats."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, but for resuming: a run resumed from the checkpoint of the epoch that ended it stops again at once, where
    Lightning's trains one epoch more; and `patience` is the config's, where Lightning takes the checkpoint's, so that a run
    can be continued with more of it.

    It sees the metrics of the whole epoch, before the checkpoint of that epoch is written. Where there is a progress bar, the
    reason for stopping is printed.

    Its arguments are Lightning's, `patience` in validations without a gain and `min_delta` above which a gain counts.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        patience = self.patience
        super().load_state_dict(state_dict)
        more = patience > self.patience and self.wait_count < patience
        self.patience = patience
        if more and self.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
            self.stopping_reason, self.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED and trainer.progress_bar_callback is not None:
            trainer.print(f"stopped early: {str(self.stopping_reason_message).removesuffix(' Signaling Trainer to stop.')}")
