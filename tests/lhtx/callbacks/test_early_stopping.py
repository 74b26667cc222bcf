"""Early stopping: when it stops, and that a resumed run stops in the same place."""

import math
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback

from lhtx.checkpoints import load_checkpoint
from lhtx.compose import compose
from lhtx.errors import ConfigError
from lhtx.train import train

COSINE = "model.scheduler={_target_:torch.optim.lr_scheduler.CosineAnnealingLR,_partial_:true,T_max:8}"


@pytest.fixture
def stopping(quiet):
    """Overrides of a run of up to nine epochs that stops when the accuracy gains less than 0.1 in two of them."""

    def overrides(name: str, *more: str) -> list[str]:
        options = (
            "callbacks=[default,early_stopping]",
            "callbacks.early_stopping.min_delta=0.1",
            "trainer.max_epochs=9",
            COSINE,
        )
        return quiet(name, *options, "callbacks.early_stopping.patience=2", *more)

    return overrides


def epochs_of(directory: Path) -> int:
    return load_checkpoint(directory / "checkpoints" / "last.ckpt")["epoch"] + 1


def same(a: dict[str, float], b: dict[str, float]) -> bool:
    return a.keys() == b.keys() and all(a[name] == b[name] or (math.isnan(a[name]) and math.isnan(b[name])) for name in a)


def test_a_run_that_gains_nothing_stops_after_its_patience(stopping, tmp_path):
    train(compose(stopping("run", "model.optimizer.lr=0.0")))
    assert epochs_of(tmp_path / "run") == 3  # the first is the best, two gain nothing
    train(compose(stopping("longer", "model.optimizer.lr=0.0", "trainer.min_epochs=5")))
    assert epochs_of(tmp_path / "longer") == 5


def test_without_it_no_run_stops_early(quiet, tmp_path):
    train(compose(quiet("run", "trainer.max_epochs=4", "model.optimizer.lr=0.0")))
    assert epochs_of(tmp_path / "run") == 4


def test_a_run_interrupted_before_it_stops_ends_like_the_uninterrupted_one(stopping, tmp_path):
    class Crash(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1:
                raise RuntimeError("the machine went down")

    whole = train(compose(stopping("whole")))
    assert 3 <= epochs_of(tmp_path / "whole") < 9
    with pytest.raises(RuntimeError, match="went down"):
        train(compose(stopping("parts")), callbacks=[Crash()])
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    assert same(train(compose(stopping("parts", f"ckpt_path={last}"))), whole)
    assert epochs_of(tmp_path / "parts") == epochs_of(tmp_path / "whole")


def test_a_run_that_has_stopped_trains_no_epoch_more_unless_it_gets_more_patience(stopping, tmp_path):
    metrics = train(compose(stopping("run", "model.optimizer.lr=0.0")))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    assert same(train(compose(stopping("run", "model.optimizer.lr=0.0", f"ckpt_path={last}"))), metrics)
    assert last.read_bytes() == before
    train(compose(stopping("run", "model.optimizer.lr=0.0", f"ckpt_path={last}", "callbacks.early_stopping.patience=4")))
    assert epochs_of(tmp_path / "run") == 5


def test_the_reason_is_printed_with_the_progress(stopping, capsys):
    train(compose(stopping("run", "model.optimizer.lr=0.0", "trainer.enable_progress_bar=true")))
    assert "stopped early: Monitored metric val/avg_acc did not improve in the last 2 records" in capsys.readouterr().out


def test_a_metric_that_is_never_logged_is_refused(stopping):
    with pytest.raises(ConfigError, match=r"callbacks\.early_stopping\.monitor is 'val/los'.*Did you mean val/loss"):
        train(compose(stopping("run", "callbacks.early_stopping.monitor=val/los")))
