"""Prints what a network is made of and how many parameters each part has, heads included, before it trains."""

import rich
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities.model_summary import summarize
from rich.table import Table
from rich.text import Text


class NetworkSummary(ModelSummary):
    """A table of the modules that have parameters, with their number, and the total. The first process alone prints it.

    `trainer.enable_model_summary=false` leaves it out. It is Lightning's summary without what has no parameters, such as the
    metrics, and with whole numbers; plain text where there is no terminal.

    Args:
        max_depth: levels of nested modules that are listed; a network's heads stand on the third. 0 prints the total alone,
            -1 every level.
    """

    def __init__(self, max_depth: int = 3) -> None:
        super().__init__(max_depth=max_depth)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        summary = summarize(pl_module, max_depth=self._max_depth)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("module", "class"):
            table.add_column(name, overflow="fold")
        table.add_column("parameters", justify="right", no_wrap=True)
        if self._max_depth:
            for name, kind, count in zip(summary.layer_names, summary.layer_types, summary.param_nums, strict=True):
                if count > 0:
                    table.add_row(Text(name), kind, f"{count:,}")
        trainable, total = summary.trainable_parameters, summary.total_parameters
        note = "" if trainable == total else f"{trainable:,} trainable"
        table.add_row("total", note, f"{total:,}", style="bold")
        rich.get_console().print(table)
