"""Where a sweep lives on disk, and what is written there. The one module that knows a path inside `runs/NAME/`, but for the
lock's (`lock.py`).

It knows files and the Optuna study, not what runs a sweep: importing it costs neither Ray nor torch.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhtx.files import write_atomically
from sweeps import located_yaml
from sweeps.attributes import CONTINUES as CONTINUES  # what reads ledgers needs of sweeps is all here
from sweeps.attributes import EPOCHS as EPOCHS
from sweeps.attributes import EXPLOITS as EXPLOITS
from sweeps.attributes import FROM as FROM
from sweeps.attributes import REPEATS as REPEATS
from sweeps.attributes import REPLACES as REPLACES
from sweeps.attributes import RETRIES as RETRIES
from sweeps.attributes import asked_again as asked_again
from sweeps.attributes import own_trials as own_trials
from sweeps.attributes import rejected as rejected
from sweeps.errors import LedgerError, SpaceError
from sweeps.lock import Holder, SweepLock
from sweeps.outcomes import outcome as outcome
from sweeps.places import Place
from sweeps.recorded import recorded as recorded
from sweeps.winners import Configuration as Configuration
from sweeps.winners import configurations as configurations
from sweeps.winners import deviation as deviation
from sweeps.winners import front as front
from sweeps.winners import mean as mean
from sweeps.winners import order as order
from sweeps.winners import rivals as rivals

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from sweeps.space import SearchSpace

DEFAULT_ROOT = Path("runs")
RUNNING = ".running"
"""In a trial's directory: the lock that its process holds for as long as it may write there."""
LEADING_COLUMNS = ("epoch", "seconds")
SHADOW = "shadow "
"""What stands before a verdict in a history that a guard in shadow mode did not act on."""


@dataclass(frozen=True)
class TrialFiles:
    """The files of one trial, under `runs/NAME/trials/NNNN/`."""

    directory: Path

    @property
    def config(self) -> Path:
        """The composed config, resolved."""
        return self.directory / "config.yaml"

    @property
    def overrides(self) -> Path:
        """The Hydra overrides, one a line: all that makes the trial what it is."""
        return self.directory / "overrides.txt"

    @property
    def history(self) -> Path:
        """One row an epoch: see `History`."""
        return self.directory / "history.csv"

    @property
    def log(self) -> Path:
        """What the trial's process printed."""
        return self.directory / "stdout.log"

    @property
    def error(self) -> Path:
        """The traceback of a trial that failed."""
        return self.directory / "error.txt"

    @property
    def checkpoints(self) -> Path:
        """`best.ckpt` and `last.ckpt`."""
        return self.directory / "checkpoints"

    @property
    def start_checkpoint(self) -> Path:
        """What a trial started from that is a copy of another one (population-based training)."""
        return self.checkpoints / "start.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        """What an interrupted trial continues from."""
        return self.checkpoints / "last.ckpt"


@dataclass
class History:
    """A trial's `history.csv`: a row an epoch, `epoch` (from 1), `seconds` (since the trial began), every metric that it
    logged, and `verdict` with its reason (empty but for the trial's last epoch, and where a guard in shadow mode would have
    ended it).

    Rows are appended in one write each. A trial that continues from a checkpoint reports some epochs again: rows from the
    first such epoch on are replaced.
    """

    path: Path
    columns: list[str] = field(default_factory=list)
    last_epoch: int = 0

    @classmethod
    def open(cls, path: Path) -> History:
        """Continue the file at `path`, or start it."""
        if path.exists() and not (text := path.read_text()).endswith("\n"):
            write_atomically(path, text[: text.rfind("\n") + 1])
        rows = read_history(path)
        return cls(path, path.read_text().split("\n", 1)[0].split(",") if rows else [], rows[-1]["epoch"] if rows else 0)

    def append(self, epoch: int, seconds: float, metrics: Mapping[str, float], verdict: str = "") -> None:
        """Record one epoch."""
        row: dict[str, Any] = {"epoch": epoch, "seconds": round(seconds, 3), **metrics, "verdict": verdict}
        if epoch <= self.last_epoch or not set(row) <= set(self.columns):
            earlier = [old for old in read_history(self.path) if old["epoch"] < epoch]
            names = dict.fromkeys(name for old in [*earlier, row] for name in old)
            middle = sorted(set(names) - {*LEADING_COLUMNS, "verdict"})
            self.columns = [*LEADING_COLUMNS, *middle, "verdict"]
            if earlier or self.path.exists():
                write_atomically(self.path, self._csv(earlier, header=True))
        with self.path.open("ab") as file:
            file.write(self._csv([row], header=file.tell() == 0).encode())
        self.last_epoch = epoch

    def keep(self, rows: list[dict[str, Any]]) -> None:
        """Let these rows be all that there are."""
        write_atomically(self.path, self._csv(rows, header=True))
        self.last_epoch = rows[-1]["epoch"] if rows else 0

    def conclude(self, verdict: str) -> None:
        """Write the trial's verdict into its last row, if there is a row and no verdict but a guard's in shadow mode stands
        there."""
        rows = read_history(self.path)
        if rows and (not rows[-1]["verdict"] or rows[-1]["verdict"].startswith(SHADOW)):
            rows[-1]["verdict"] = verdict
            write_atomically(self.path, self._csv(rows, header=True))

    def _csv(self, rows: list[dict[str, Any]], header: bool = False) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a `history.csv`: `epoch` an int, `verdict` text, all else floats; what an epoch did not log is left out.

    A last line that a killed driver left half-written has no line end and is left out.

    Raises:
        LedgerError: a row is damaged.
    """
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    try:
        text = path.read_text()
        for line in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])):
            row: dict[str, Any] = {name: float(cell) for name, cell in line.items() if cell and name != "verdict"}
            rows.append({**row, "epoch": int(row["epoch"]), "verdict": line["verdict"]})
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(
            f"{path}: row {len(rows) + 1} is damaged ({error}). Mend it, or delete the file: the study has the objective."
        ) from error
    return rows


@dataclass(frozen=True)
class Ledger:
    """One sweep's directory.

    >>> Ledger("quickstart").trial(7).history.as_posix()
    'runs/quickstart/trials/0007/history.csv'
    """

    name: str
    root: Path = DEFAULT_ROOT

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise LedgerError(f"A sweep cannot be named {self.name!r}: use letters, digits, '_', '-' and '.'.")

    @property
    def directory(self) -> Path:
        return self.root / self.name

    @property
    def space_file(self) -> Path:
        """The search space, resolved (`extends` followed, defaults filled in)."""
        return self.directory / "space.yaml"

    @property
    def manifest_file(self) -> Path:
        """Where the sweep came from: commit, versions, machine, seeds, command lines."""
        return self.directory / "manifest.json"

    @property
    def results_file(self) -> Path:
        """The trials as one table, written with the report."""
        return self.directory / "results.parquet"

    @property
    def report_directory(self) -> Path:
        return self.directory / "report"

    @property
    def export_directory(self) -> Path:
        """Trials and histories as tables, where no other place was asked for."""
        return self.directory / "export"

    @property
    def clock_file(self) -> Path:
        """How long the run that is under way, or was killed, has taken."""
        return self.directory / ".clock"

    @property
    def mirrored_file(self) -> Path:
        """Where the sweep is copied to, and what of it has been (`mirror.py`)."""
        return self.directory / ".mirrored.json"

    @property
    def hparams_directory(self) -> Path:
        """What tells TensorBoard of the sweep as a whole (`hparams.py`)."""
        return self.directory / "tensorboard"

    @property
    def scratch_directory(self) -> Path:
        """What Tune writes for itself while a driver runs."""
        return self.directory / ".tune"

    @property
    def trials_directory(self) -> Path:
        return self.directory / "trials"

    @property
    def orphans_directory(self) -> Path:
        """Directories of trials of which the study knows nothing (`older_study.py`)."""
        return self.directory / "orphans"

    @property
    def fetched_file(self) -> Path:
        """In a copy from a cluster: where it is from, and whether it ran there then (`cluster/fetch.py`)."""
        return self.directory / ".fetched"

    def trial(self, number: int) -> TrialFiles:
        """The files of trial `number` (Optuna's number)."""
        return TrialFiles(self.trials_directory / f"{number:04d}")

    def checkpoint_files(self) -> dict[Path, int]:
        """Every trial's checkpoints that there are, and their sizes in bytes."""
        found = {}
        for path in sorted(self.trials_directory.glob("[0-9]*/checkpoints/[!.]*.ckpt")):
            with suppress(FileNotFoundError):  # a driver has removed it just now
                found[path] = path.stat().st_size
        return found

    def command(self, target: str) -> str:
        """What a person types to do `target` with this sweep.

        >>> Ledger("quickstart").command("resume")
        'make resume NAME=quickstart'
        """
        return f"make {target} NAME={self.name}{self.runs_variable}"

    @property
    def runs_variable(self) -> str:
        """What tells make of a root that is not the default: ` RUNS=…`, or nothing."""
        return "" if self.root == DEFAULT_ROOT else f" RUNS={shlex.quote(str(self.root))}"

    def exists(self) -> bool:
        return self.manifest_file.exists()

    @staticmethod
    def names(root: Path | str = DEFAULT_ROOT) -> list[str]:
        """Every sweep under `root`."""
        return sorted(path.parent.name for path in Path(root).glob("*/manifest.json"))

    def require(self) -> Ledger:
        """This ledger, if its sweep exists.

        Raises:
            LedgerError: it does not; the names that come near are listed.
        """
        if not self.exists():
            names = self.names(self.root)
            near = get_close_matches(self.name, names, n=3, cutoff=0.4) or names[:10]
            known = f"Did you mean {', '.join(near)}?" if near else "There is none yet: start one with `make sweep NAME=…`."
            raise LedgerError(f"There is no sweep {self.name!r} in {self.root}/. {known}")
        return self

    @property
    def place(self) -> Place:
        """Where the study lives: in `study.db` for sweeps from before there was a choice."""
        said = self.manifest().get("storage", "sqlite")
        try:
            return Place.parse(said)
        except (ValueError, TypeError) as error:
            raise LedgerError(f"{self.manifest_file}: storage: {error}.") from error

    @property
    def study_name(self) -> str:
        """The study's name where it lives: several sweeps may share a database."""
        return self.manifest().get("study", self.name)

    @property
    def study_place(self) -> str:
        """The study's file or database, for messages."""
        return self.place.within(self.directory)

    @cached_property
    def storage(self) -> optuna.storages.BaseStorage:
        """The study's storage; its errors are `StorageError`s.

        Raises:
            LedgerError: it is missing or damaged, or cannot be reached.
        """
        from sweeps.storage import open_storage

        return open_storage(self.place, self.directory)

    def study(self) -> optuna.Study:
        """The Optuna study of an existing sweep.

        Raises:
            LedgerError: the sweep, its study or where that lives is missing or damaged, or cannot be reached.
        """
        import optuna

        try:
            return optuna.load_study(study_name=self.study_name, storage=self.storage)
        except KeyError as error:
            raise LedgerError(f"{self.study_place} holds no study named {self.study_name!r}.") from error

    def manifest(self) -> dict[str, Any]:
        """The manifest of an existing sweep."""
        self.require()
        try:
            return json.loads(self.manifest_file.read_text())
        except json.JSONDecodeError as error:
            raise LedgerError(f"{self.manifest_file}: line {error.lineno}: not JSON ({error.msg}).") from error

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        write_atomically(self.manifest_file, json.dumps(manifest, indent=2) + "\n")

    def space(self) -> SearchSpace:
        """The search space as it was when the sweep began, with what `extend` has changed since."""
        from sweeps.space import load_space

        return replace(load_space(self.require().space_file), name=self.name)

    def plain_space(self) -> dict[str, Any]:
        """The search space as plain data: a sweep stays readable when its space would no longer be accepted.

        Raises:
            LedgerError: it is missing or is no YAML.
        """
        try:
            return located_yaml.load(self.space_file).value
        except SpaceError as error:
            raise LedgerError(f"{self.space_file} cannot be read ({error}). Restore it from a copy.") from error

    def budget_used(self, trials: Sequence[FrozenTrial]) -> str:
        """What is used of each limit of the sweep's budget, in words; empty if it has none. Args: trials: its own."""
        from sweeps.usage import account

        return str(account(self, trials) or "")

    def lock(self) -> AbstractContextManager[None]:
        """Hold the sweep for this process (`SweepLock.hold`).

        Raises:
            LedgerError: another process holds it, or the directory cannot be written.
        """
        return SweepLock(self.directory).hold()

    def holder(self) -> Holder | None:
        """The process that runs this sweep now, if one does."""
        return SweepLock(self.directory).holder()
