"""Makes a new sweep: its directory, its study, and the trials that it starts with. It knows neither Ray nor how trials run."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import optuna
from sqlalchemy.exc import DatabaseError

from sweeps import edits
from sweeps.errors import LedgerError
from sweeps.ledger import Ledger
from sweeps.space import SearchSpace, complete_start, dump


def create_ledger(ledger: Ledger, space: SearchSpace) -> None:
    """Make the whole ledger beside its place, then move it there: a sweep's directory is there with all it needs, or not."""
    try:
        ledger.root.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".creating-", dir=ledger.root))
    except OSError as error:
        raise LedgerError(f"{ledger.root}/ cannot be written ({error.strerror}): choose another place with RUNS=….") from error
    try:
        draft = Ledger(ledger.name, workshop)
        draft.trials_directory.mkdir(parents=True)
        draft.space_file.write_text(dump(space))
        create_study(draft, space)
        draft.storage.remove_session()
        draft.storage.engine.dispose()
        draft.write_manifest({"name": ledger.name, "seed": space.search.seed, "space": edits.begun(space), "sessions": []})
        draft.directory.rename(ledger.directory)
    except OSError as error:
        if ledger.exists():
            raise LedgerError(
                f"{ledger.directory}/ has just been made by another driver: choose another name with AS=…."
            ) from error
        raise LedgerError(f"{ledger.directory} cannot be made ({error.strerror}).") from error
    except (optuna.exceptions.StorageInternalError, DatabaseError) as error:
        raise LedgerError(f"{ledger.directory} cannot be made: {error}") from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def create_study(ledger: Ledger, space: SearchSpace) -> optuna.Study:
    """A new study in the ledger's storage, with the trials to start with enqueued."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=ledger.name,
        storage=ledger.storage,
        directions=["maximize" if mode == "max" else "minimize" for mode in space.modes],
    )
    study.set_user_attr("metric", space.objective.metric)
    study.set_user_attr("mode", space.objective.mode)
    if len(space.objectives) > 1:
        study.set_user_attr("objectives", [objective.model_dump() for objective in space.objectives])
    for start in space.search.start_with:
        study.enqueue_trial(complete_start(space, start))
    return study
