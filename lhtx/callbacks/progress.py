"""Shows how far a run is: live bars and a table of its metrics in a terminal, one plain line an epoch anywhere else.

What the metrics mean is the business of `lhtx.callbacks.metric_rows`; nothing here changes a run.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, Literal

import rich
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text
from torch import Tensor

from lhtx.callbacks.logged_metrics import logged
from lhtx.callbacks.metric_rows import SPLITS, cell, gradients, line, number, rows
from lhtx.errors import ConfigError
from lhtx.terminal import moves_cursor, printable

Display = Literal["auto", "rich", "plain"]
DISPLAYS: tuple[str, ...] = ("auto", "rich", "plain")
REFRESH_SECONDS = 0.4
"""How often the live display is drawn anew, at most, be it for a batch, an epoch or its metrics: a drawing takes some
milliseconds, as long as dozens of steps of a small network. Between two drawings a batch costs one look at the clock."""


class TrainingProgress(ProgressBar):
    """The progress bar of every stage. `trainer.enable_progress_bar=false` leaves it out.

    The live display is drawn from the training process itself, without a thread, and takes its place below another live
    display of the same console where there is one. In a run of several processes the first alone shows anything.

    Args:
        display: `rich` is the live display, `plain` one line an epoch; `auto` is `rich` on a terminal that can move its
            cursor, else `plain`.

    Raises:
        ConfigError: another display.
    """

    def __init__(self, display: Display = "auto") -> None:
        super().__init__()
        if display not in DISPLAYS:
            raise ConfigError(f"TrainingProgress: display is {display!r}. Accepted: {', '.join(DISPLAYS)}")
        self.display = display
        self._enabled = True
        self._view: LiveView | PlainView | None = None  # made late: a console cannot be sent to another process
        self._validated = self._trained = False

    def disable(self) -> None:
        self._enabled = False
        self._close()

    def enable(self) -> None:
        self._enabled = True

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("sanity check", sum(trainer.num_sanity_val_batches))

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.reset_dataloader_idx_tracker()
        if self._view:
            self._view.end_part()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_epoch(trainer)
        last = trainer.max_epochs
        of = f"/{last}" if last is not None and last > 0 else ""
        self._begin(f"epoch {trainer.current_epoch + 1}{of}", self.total_train_batches)
        self._trained = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._view:
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            self._view.advance(batch_idx + 1, loss, trainer.accumulate_grad_batches)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.has_dataloader_changed(dataloader_idx) and not trainer.sanity_checking:
            inside = trainer.state.fn == "fit"
            self._begin("validation", self.total_val_batches_current_dataloader, part=inside)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._view:
            self._view.advance(batch_idx + 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.reset_dataloader_idx_tracker()
        if trainer.sanity_checking:
            return
        self._validated = True
        if self._view:
            self._view.end_part()
            self._view.show(logged(trainer))
        if trainer.state.fn != "fit":
            self._close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show_epoch(trainer)
        self._close()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.has_dataloader_changed(dataloader_idx):
            self._begin("test", self.total_test_batches_current_dataloader)

    on_test_batch_end = on_validation_batch_end

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.reset_dataloader_idx_tracker()
        self._close()

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.has_dataloader_changed(dataloader_idx):
            self._begin("prediction", self.total_predict_batches_current_dataloader)

    on_predict_batch_end = on_validation_batch_end

    on_predict_end = on_test_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def _begin(self, name: str, total: float, part: bool = False) -> None:
        """Start a bar; a `part` is a second one below that of the epoch."""
        if not self._enabled:
            return
        if self._view is None:
            console = rich.get_console()
            live = self.display == "rich" or (self.display == "auto" and moves_cursor(console))
            self._view = LiveView(console) if live else PlainView(console)
        self._view.begin(name, total, part)

    def _show_epoch(self, trainer: Trainer) -> None:
        """Show what the last epoch came to. The module logs it after `on_train_epoch_end`, so this is for later hooks."""
        if not (self._trained and self._view):
            return
        metrics = logged(trainer)
        self._view.show(metrics)
        if not self._validated:  # those there are belong to an earlier epoch
            metrics = {name: value for name, value in metrics.items() if not name.startswith("val/")}
        self._view.end_epoch(metrics)
        self._trained = self._validated = False

    def _close(self) -> None:
        if self._view:
            self._view.close()
        self._view = None


class PlainView:
    """One line an epoch, on the console's file: for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._name, self._start = "", time.monotonic()

    def begin(self, name: str, total: float, part: bool) -> None:
        if not part:
            self._name, self._start = name, time.monotonic()

    def advance(self, done: int, loss: Tensor | None = None, accumulated: int = 1) -> None:
        """Nothing: a line is for an epoch."""

    def end_part(self) -> None:
        """Nothing, as for `advance`."""

    def show(self, metrics: Mapping[str, float]) -> None:
        """Nothing, as for `advance`."""

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        seconds = time.monotonic() - self._start
        text = f"{self._name} ({seconds:.1f} s)  {line(metrics)}"
        print(printable(text, self._console), file=self._console.file, flush=True)

    def close(self) -> None:
        """Nothing is left open."""


class LiveView:
    """Bars and a table of metrics that are drawn over themselves, in a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=_narrow()),
            BarColumn(bar_width=24),
            _Count(table_column=_narrow()),
            _Speed(table_column=_narrow()),
            TimeElapsedColumn(table_column=_narrow()),
            TimeRemainingColumn(table_column=_narrow()),
            console=console,
            auto_refresh=False,  # never started: it is drawn by the Live below, together with the table
        )
        self._main: TaskID | None = None
        self._part: TaskID | None = None
        self._metrics: Mapping[str, float] = {}
        self._loss: float | None = None
        self._totals: list[float] = [math.inf]  # of the epoch's bar, and of the part below it
        self._drawn = -math.inf
        self._live = Live(console=console, auto_refresh=False, get_renderable=self._render)
        self._live.start()

    def begin(self, name: str, total: float, part: bool) -> None:
        if part:
            self.end_part()
        elif self._main is not None:
            self._bars.remove_task(self._main)
        task = self._bars.add_task(printable(name, self._console), total=total if math.isfinite(total) else None)
        self._main, self._part = (self._main, task) if part else (task, self._part)
        self._totals = [self._totals[0], total] if part else [total]
        self._draw()

    def advance(self, done: int, loss: Tensor | None = None, accumulated: int = 1) -> None:
        """`done` batches are finished; `loss` is read from the device only when the display is drawn. Lightning has divided it
        by the number of batches that are `accumulated` for a step.
        """
        task = self._main if self._part is None else self._part
        due = time.monotonic() - self._drawn >= REFRESH_SECONDS
        if task is None or not (due or done == self._totals[-1]):
            return
        self._bars.update(task, completed=done)
        if due and loss is not None and self._part is None:
            self._loss = float(loss) * accumulated
        self._draw()

    def end_part(self) -> None:
        if self._part is not None:
            self._bars.remove_task(self._part)
            self._part, self._totals = None, self._totals[:1]

    def show(self, metrics: Mapping[str, float]) -> None:
        self._metrics = dict(metrics)
        self._draw()

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        self._loss = None

    def close(self) -> None:
        self.end_part()
        self._live.stop()

    def _draw(self) -> None:
        """Draw, unless that was done a moment ago: then what is due is drawn with the next change, the last when it closes."""
        now = time.monotonic()
        if now - self._drawn >= REFRESH_SECONDS:
            self._drawn = now
            self._live.refresh()

    def _render(self) -> Group:
        parts: list[Any] = [self._bars.get_renderable()]
        if self._loss is not None:
            parts.append(Text(f"loss of this batch {number(self._loss)}", style="dim", overflow="fold"))
        if self._metrics:
            parts.append(metric_table(self._metrics, self._console))
        return Group(*parts)


def metric_table(metrics: Mapping[str, float], console: Console) -> Group:
    """The metrics with a row for the loss, each head, their average and the best, a column a split; gradients below."""
    found = rows(metrics)
    splits = [split for split in SPLITS if any(split in row for row in found.values())]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", overflow="fold")
    for split in splits:
        table.add_column(split, overflow="fold")
    for name, row in found.items():
        table.add_row(Text(printable(name, console)), *(Text(cell(row.get(split, {}))) for split in splits))
    parts: list[Any] = [table]
    if grad := gradients(metrics):
        shown = "  ".join(f"{name} {number(value)}" for name, value in grad.items())
        parts.append(Text(f"gradient  {shown}", style="dim", overflow="fold"))
    return Group(*parts)


class _Count(ProgressColumn):
    """Batches done and, where it is known, how many there are."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed)}/{'?' if task.total is None else int(task.total)}")


class _Speed(ProgressColumn):
    """Batches a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


def _narrow() -> Column:
    """A column that is cut off, without a character that not every terminal has."""
    return Column(no_wrap=True, overflow="crop")
