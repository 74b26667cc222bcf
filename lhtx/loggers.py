"""A CSV logger that goes on with its file when a run is resumed. Knows nothing of metrics."""

import csv
import io
import warnings
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

from lhtx.files import write_atomically


class CSVLogger(LightningCSVLogger):
    """Lightning's, which begins its file anew, but for two cases: after `resume_from` the rows of earlier steps stay, and
    another process of the same run adds to the file.
    """

    _resume_step: int | None = None

    def resume_from(self, step: int) -> None:
        """Keep the rows of optimizer steps before `step`, which the run will not take again. To be called before logging."""
        self._resume_step = step

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            file = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
            kept = "" if self._resume_step is None or not file.is_file() else _before(file.read_text(), self._resume_step)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that earlier files are deleted: what is needed of them is put back
                self._experiment = ExperimentWriter(log_dir=self.log_dir)
            if kept:
                write_atomically(file, kept)
        return self._experiment

    def save(self) -> None:
        if self._experiment is not None and not self._experiment.metrics_keys:
            file = Path(self._experiment.metrics_file_path)
            if file.is_file():  # of another process, or from before the run was resumed
                with file.open(newline="") as lines:
                    self._experiment.metrics_keys = next(csv.reader(lines), [])
        super().save()


def _before(text: str, step: int) -> str:
    """The table `text` without the rows whose `step` is `step` or later, and without a row that was not written to its end."""
    whole = text[: text.rfind("\n") + 1]
    reader = csv.DictReader(io.StringIO(whole, newline=""))
    page = io.StringIO(newline="")
    writer = csv.DictWriter(page, reader.fieldnames or [])
    writer.writeheader()
    writer.writerows(row for row in reader if int(row["step"]) < step)
    return page.getvalue() if whole else ""
