"""The progress bar: what it shows where, and that it never stands in a run's way."""

import io
import math
import pickle
import re

import pytest
import rich
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.live import Live

from lhtx.callbacks import TrainingProgress
from lhtx.callbacks.progress import REFRESH_SECONDS, LiveView, PlainView
from lhtx.compose import compose
from lhtx.errors import ConfigError
from lhtx.train import train

SHOWN = ("trainer.enable_progress_bar=true",)


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch) -> Console:
    """Rich's console, as it is in a terminal of 100 columns that can move its cursor."""
    return use(monkeypatch, Terminal(), width=100)


def use(monkeypatch: pytest.MonkeyPatch, file: io.TextIOBase, width: int) -> Console:
    environment = {"TERM": "xterm", "COLUMNS": str(width), "LINES": "50"}
    console = Console(file=file, _environ=environment, force_terminal=file.isatty())
    monkeypatch.setattr(rich, "get_console", lambda: console)
    return console


def text_of(console: Console) -> str:
    """What was written, without control sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def test_without_a_terminal_each_epoch_is_one_line(quiet, capsys):
    train(compose(quiet("run", *SHOWN, "trainer.max_epochs=2")))
    first, second = capsys.readouterr().out.splitlines()
    pattern = (
        r"epoch {}/2 \(\d+\.\d s\)  train: loss [\d.]+, note_number acc [\d.]+, log10_decay_time acc [\d.]+, average acc "
        r"[\d.]+ "
        r"\| val: loss [\d.]+, note_number acc .*, best acc [\d.]+ \| grad: epoch_mean [\d.]+, snr [\d.]+"
    )
    assert re.match(pattern.format(1), first)
    assert re.match(pattern.format(2), second)


def test_the_line_has_the_values_of_its_own_epoch(quiet, capsys):
    seen = []

    class Values(Callback):
        def on_train_end(self, trainer, pl_module):
            seen.append({name: f"{float(value):.4g}" for name, value in trainer.callback_metrics.items()})

    train(compose(quiet("run", *SHOWN, "trainer.max_epochs=3")), callbacks=[Values()])
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"train: loss {seen[0]['train/loss']}," in last
    assert f"val: loss {seen[0]['val/loss']}," in last
    assert f"snr {seen[0]['grad/snr']}" in last


def test_an_epoch_without_validation_does_not_show_an_older_one(quiet, capsys):
    options = (
        "trainer.check_val_every_n_epoch=2",
        "optimized_metric=train/avg_acc",
        "trainer.max_epochs=3",
        "callbacks=progress_bar",
    )
    train(compose(quiet("run", *SHOWN, *options)))
    assert ["val:" in line for line in capsys.readouterr().out.splitlines()] == [False, True, False]


@pytest.mark.parametrize("callbacks", ["default", "none"])
def test_the_trainer_s_flags_silence_everything(quiet, capfd, terminal, callbacks):
    train(compose(quiet("run", f"callbacks={callbacks}", "trainer.max_epochs=1")))
    assert capfd.readouterr() == ("", "")
    assert text_of(terminal) == ""


def test_a_run_without_the_callbacks_shows_nothing_of_lightning_s_own(quiet, capfd):
    train(compose(quiet("run", "callbacks=none", *SHOWN, "trainer.enable_model_summary=true", "trainer.max_epochs=1")))
    assert capfd.readouterr().out == ""


def test_in_a_terminal_bars_and_a_table_are_drawn(quiet, terminal, monkeypatch):
    monkeypatch.setattr("lhtx.callbacks.progress.REFRESH_SECONDS", 0.0)  # whatever is drawn is drawn at once
    train(compose(quiet("run", *SHOWN, "trainer.max_epochs=2")))
    text = text_of(terminal)
    for words in ("epoch 2/2", "validation", "test", "train", "val", "note_number", "average", "best", "gradient  epoch_mean"):
        assert words in text
    assert re.search(r"2/2 +[\d.]*", text)
    assert not terminal._live_stack
    assert terminal.file.getvalue().count("\x1b[?25l") == terminal.file.getvalue().count("\x1b[?25h")  # the cursor is back


def test_a_development_run_is_shown(quiet, terminal, capsys):
    train(compose(quiet("run", *SHOWN, "trainer.fast_dev_run=true")))
    assert "epoch 1/1" in text_of(terminal)
    assert "1/1" in text_of(terminal)


def test_inside_another_live_display_both_are_shown_and_the_other_goes_on(quiet, terminal):
    with Live("the outer display", console=terminal, auto_refresh=False) as outer:
        train(compose(quiet("run", *SHOWN, "trainer.max_epochs=2")))
        assert terminal._live_stack == [outer]
        terminal.file.truncate(0)
        outer.update("the outer display goes on", refresh=True)
        assert "the outer display goes on" in text_of(terminal)
    text = text_of(terminal)
    assert "epoch" not in text.split("goes on")[-1]
    assert not terminal._live_stack


def test_inside_another_live_display_an_error_leaves_the_other_as_it_was(quiet, terminal):
    class Fault(Callback):
        def on_train_batch_end(self, *arguments):
            raise ZeroDivisionError

    with Live("the outer display", console=terminal, auto_refresh=False) as outer:
        with pytest.raises(ZeroDivisionError):
            train(compose(quiet("run", *SHOWN)), callbacks=[Fault()])
        assert terminal._live_stack == [outer]


@pytest.mark.parametrize("width", [100, 30, 8])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_any_width_and_encoding_will_do(monkeypatch, width, encoding):
    class Ascii(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    raw = io.BytesIO()
    console = use(monkeypatch, Ascii(raw, encoding=encoding), width)
    view = LiveView(console)
    view.begin("epoch 1/2", 3, part=False)
    view.begin("validation", math.inf, part=True)
    view.advance(1)
    view.end_part()
    view.show({"train/Tonhöhe ♪ [bold]_acc": 0.5, "val/loss": 1.0, "grad/snr": 2.0})
    view.close()
    PlainView(console).end_epoch({"train/Tonhöhe ♪_acc": 0.5})
    console.file.flush()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.getvalue().decode(encoding)).replace("\r", "\n")
    drawn, plain = text.rsplit("\n (", 1)
    assert all(len(line) <= width for line in drawn.splitlines())
    assert ("Tonhöhe" if encoding != "ascii" else r"Tonh\xf6he") in plain


@pytest.mark.parametrize(
    ("file", "term", "view"),
    [(io.StringIO(), "xterm", PlainView), (Terminal(), "dumb", PlainView), (Terminal(), "xterm", LiveView)],
)
def test_the_display_is_chosen_by_what_the_terminal_can_do(monkeypatch, file, term, view):
    monkeypatch.setattr(rich, "get_console", lambda: Console(file=file, _environ={"TERM": term}, force_terminal=file.isatty()))
    progress = TrainingProgress()
    progress._begin("epoch 1", 3)
    assert type(progress._view) is view
    progress._close()


def test_a_display_can_be_chosen_and_another_is_refused(quiet, monkeypatch, capsys):
    use(monkeypatch, Terminal(), 100)
    progress = TrainingProgress("plain")
    progress._begin("epoch 1", 3)
    assert type(progress._view) is PlainView
    with pytest.raises(ConfigError, match=r"display is 'fancy'\. Accepted: auto, rich, plain"):
        TrainingProgress("fancy")


def test_the_loss_is_read_only_when_it_is_drawn(terminal):
    class Loss(torch.Tensor):
        read = 0

        def __float__(self) -> float:
            Loss.read += 1
            return 1.5

    view = LiveView(terminal)
    view.begin("epoch 1", 1000, part=False)
    for batch in range(999):
        view.advance(batch + 1, Loss(1))
    view._drawn -= 1
    assert Loss.read <= 3
    view.advance(1000, Loss(1))
    assert "loss of this batch 1.5" in text_of(terminal)
    view.close()


def test_short_epochs_are_not_drawn_more_often_than_long_ones(terminal, monkeypatch):
    drawn, clock = [], iter(range(10_000))
    monkeypatch.setattr("lhtx.callbacks.progress.time.monotonic", lambda: next(clock) * 0.001)
    view = LiveView(terminal)
    refresh = view._live.refresh
    monkeypatch.setattr(view._live, "refresh", lambda: (drawn.append(1), refresh()))
    for epoch in range(1, 101):
        view.begin(f"epoch {epoch}/100", 3, part=False)
        for done in range(1, 4):
            view.advance(done, torch.tensor(1.0))
        view.begin("validation", 1, part=True)
        view.advance(1)
        view.end_part()
        view.show({"val/loss": float(epoch)})
    seconds = next(clock) * 0.001
    assert 1 <= len(drawn) <= 1 + seconds / REFRESH_SECONDS
    assert "epoch 1/100" in text_of(terminal)
    terminal.file.truncate(0)
    view.close()
    last = text_of(terminal)
    assert re.search(r"epoch 100/100 .* 3/3 ", last)
    assert re.search(r"loss +100", last)


def test_a_process_that_is_not_the_first_shows_nothing(terminal):
    progress = TrainingProgress("rich")
    progress.disable()
    progress._begin("epoch 1", 3)
    assert progress._view is None
    assert text_of(terminal) == ""


def test_it_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(TrainingProgress())).display == "auto"  # noqa: S301  made here, as a launcher does it
