"""A checkpoint's predictions as a table, one row a sample, in parameter units: `python -m lhtx.predict ckpt_path=…`.

Composes, checks and restores as `lhtx.evaluate` does. It must not judge: its summary is only of what stands in the table.
"""

import sys
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor

from lhtx.errors import USER_ERRORS, ConfigError
from lhtx.evaluate import compose_evaluation, restore
from lhtx.extras import quieten
from lhtx.files import check_directory, check_file, ensure_directory, replacing
from lhtx.runs import build_trainer, closing, fail, is_main_process
from lhtx.tasks.readout import predicted_class

WRITERS = {".csv": partial(pd.DataFrame.to_csv, index=False), ".parquet": partial(pd.DataFrame.to_parquet, index=False)}
"""Suffix → what writes a table to a file of that kind."""


class _Columns(Callback):
    """Keeps what every batch of a prediction says, head by head."""

    def __init__(self, class_names: Mapping[str, list[str]]) -> None:
        self.class_names = class_names
        self.batches: list[dict[str, Tensor]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Mapping[str, Tensor],
        batch: Mapping[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        columns = {}
        for number, (head, objective) in enumerate(zip(pl_module.heads, pl_module.objectives, strict=True)):
            output, index, value = outputs[head.name], batch["index"][:, number], batch["value"][:, number]
            _, prediction = objective(output, index, value)
            predicted = predicted_class(prediction, head.spec.classes)
            position = prediction.float().masked_fill(predicted < 0, torch.nan)
            columns[f"{head.name}_true"] = head.value_of_unit(value)
            columns[f"{head.name}_predicted"] = head.value_of_position(position)
            columns[f"{head.name}_true_class"] = index
            columns[f"{head.name}_predicted_class"] = predicted
            if objective.loss.output == "logits":
                columns[f"{head.name}_confidence"] = output.float().softmax(dim=1).amax(dim=1)
        self.batches.append({name: column.cpu() for name, column in columns.items()})

    def table(self) -> pd.DataFrame:
        """All rows, in the order of the batches, with the names of classes that have names."""
        table = pd.DataFrame({name: torch.cat([batch[name] for batch in self.batches]).numpy() for name in self.batches[0]})
        for head, names in self.class_names.items():
            known = dict(enumerate(names))
            for which in ("true", "predicted"):
                place = table.columns.get_loc(f"{head}_{which}_class") + 1
                table.insert(place, f"{head}_{which}_name", table[f"{head}_{which}_class"].map(known))
        return table


def predict(cfg: DictConfig) -> pd.DataFrame:
    """The predictions of the checkpoint `cfg.ckpt_path` for every sample of `cfg.split`; also written to `cfg.out`.

    Returns:
        one row a sample: `sample`, its number in the dataset's files, test file after train file; and for each head
        `<head>_true` and `<head>_predicted` in parameter units, `_true_class` and `_predicted_class` (−1 for an output that
        is not a number), `_true_name` and `_predicted_name` where classes have names, and `_confidence`, the largest
        probability, where the head gives logits. A head that is read by expectation predicts values between its classes.

    Raises:
        CheckpointError: unreadable, made for another network (the first differing tensor is named) or for other data.
        ConfigError, DatasetError: what else the user can put right.
    """
    file = Path(cfg.paths.output_dir) / str(cfg.out)
    if file.suffix not in WRITERS:
        raise ConfigError(f"out is {cfg.out!r}; expected a name that ends in {' or '.join(WRITERS)}")
    check_directory(cfg.paths.output_dir, "paths.output_dir")
    check_file(file, "out")
    with warnings.catch_warnings():
        quieten(cfg)
        cfg, datamodule, task = restore(cfg)
        columns = _Columns(cfg.dataset.class_names or {})
        trainer = build_trainer(cfg, [columns])
        datamodule.predict_dataloader = getattr(datamodule, f"{cfg.split}_dataloader")
        with closing(trainer.loggers):
            trainer.predict(task, datamodule=datamodule, return_predictions=False)
    split = datamodule.split.test if cfg.split == "test" else datamodule.split.validation
    table = columns.table()
    table.insert(0, "sample", split[: len(table)])  # fewer where trainer.limit_predict_batches says so
    ensure_directory(file.parent, "out")
    with replacing(file) as temporary:
        WRITERS[file.suffix](table, temporary)
    return table


def summary(table: pd.DataFrame, dataset: Mapping[str, Any]) -> str:
    """A line a head: the share of right classes, and the mean absolute error where the classes are no mere names."""
    lines = []
    width = max(map(len, dataset["heads"]))
    for head in dataset["heads"]:
        right = (table[f"{head}_true_class"] == table[f"{head}_predicted_class"]).mean()
        line = f"  {head:<{width}}  {right:.4f} right"
        if head not in (dataset.get("class_names") or {}):
            error = (table[f"{head}_true"] - table[f"{head}_predicted"]).abs().mean(skipna=False)
            line += f", {error:.4g} mean absolute error in parameter units"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """The command line. Exit status 0: written; 2: something for the user to put right."""
    overrides = sys.argv[1:]
    if not overrides or any(argument in ("-h", "--help") for argument in overrides):
        print(
            "usage: python -m lhtx.predict ckpt_path=<run>/checkpoints/best.ckpt [split=test|val] "
            "[out=predictions.csv|FILE.parquet] [key=value …]"
        )
        raise SystemExit(0 if overrides else 2)
    try:
        cfg = compose_evaluation(overrides, "predict")
        table = predict(cfg)
    except USER_ERRORS as error:
        fail(error)
    if is_main_process():
        print(f"\n{len(table):,} samples of {cfg.split}\n{summary(table, cfg.dataset)}\n")
        print(f"predictions: {Path(cfg.paths.output_dir) / cfg.out}")


if __name__ == "__main__":
    main()
