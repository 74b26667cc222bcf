"""A sweep's frames as tables for other tools: trials and histories, as CSV or Parquet. It computes nothing."""

from __future__ import annotations

import io
import shlex
from pathlib import Path
from typing import Literal

import pandas as pd

from analysis.frames import for_parquet
from analysis.load import Sweep
from sweeps.ledger import LedgerError, write_atomically

Format = Literal["csv", "parquet"]


def export(sweep: Sweep, form: Format, directory: Path) -> list[Path]:
    """Write `trials` (those that constraints rejected are not among them), `configurations` and `history` into `directory`,
    made if need be.

    Parquet keeps the types of docs/analysis.md. CSV writes a trial's overrides as a shell would read them.

    Returns:
        The files; those of an earlier export are replaced.

    Raises:
        LedgerError: they cannot be written.
    """
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tables = {"trials": sweep.trials, "configurations": sweep.configurations, "history": sweep.history}
        for name, frame in tables.items():
            file = directory / f"{name}.{form}"
            write_atomically(file, _parquet(frame) if form == "parquet" else _csv(frame))
            written.append(file)
    except OSError as error:
        raise LedgerError(f"{directory} cannot be written ({error.strerror}): choose another place with --out.") from error
    return written


def _parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    for_parquet(frame).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _csv(frame: pd.DataFrame) -> str:
    if "overrides" in frame:
        frame = frame.assign(overrides=frame["overrides"].map(shlex.join))
    if "trials" in frame:
        frame = frame.assign(trials=[" ".join(map(str, numbers)) for numbers in frame["trials"]])
    return frame.to_csv(index=False, lineterminator="\n")
