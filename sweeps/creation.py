"""Makes a new sweep: its directory, its study, and the trials that it starts with. It knows neither Ray nor how trials run."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna

from sweeps import edits, warm_start
from sweeps.errors import LedgerError, StorageError
from sweeps.ledger import Ledger
from sweeps.places import chosen
from sweeps.space import SearchSpace, complete_start, dump
from sweeps.storage import made
from sweeps.warm_start import Source


def create_ledger(ledger: Ledger, space: SearchSpace, sources: Sequence[Source] = (), group_size: int | None = None) -> None:
    """Make the whole ledger beside its place, then move it there: a sweep's directory is there with all it needs, or not.

    Args:
        sources: what the sampler is to learn from (`search.from`).
        group_size: how many trials train as one, where the validation has decided that (`fuse: auto`).

    Raises:
        LedgerError: the directory cannot be made, or the study cannot where it is to live.
    """
    said, space = space, space if group_size is None else replace(space, fuse=group_size)
    place = chosen(space.storage)
    # A database may hold the studies of other directories of sweeps, and those of drivers that were killed just here.
    study = f"{ledger.name}-{uuid.uuid4().hex[:12]}" if place.url else ledger.name
    try:
        ledger.root.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=".creating-", dir=ledger.root))
    except OSError as error:
        raise LedgerError(f"{ledger.root}/ cannot be written ({error.strerror}): choose another place with RUNS=….") from error
    try:
        draft = Ledger(ledger.name, workshop)
        draft.trials_directory.mkdir(parents=True)
        draft.space_file.write_text(dump(space))
        begun = {"name": ledger.name, "id": uuid.uuid4().hex, "storage": str(place), "study": study, "seed": space.search.seed}
        draft.write_manifest({**begun, "space": edits.begun(said, space), "sessions": [], **warm_start.recorded(sources)})
        with made(place, draft.directory) as storage:
            create_study(storage, study, space).add_trials(warm_start.trials(sources))
        try:
            draft.directory.rename(ledger.directory)
        except OSError:
            with suppress(StorageError), made(place, draft.directory) as storage:
                storage.delete_study(storage.get_study_id_from_name(study))
            raise
    except OSError as error:
        if ledger.exists():
            raise LedgerError(
                f"{ledger.directory}/ has just been made by another driver: choose another name with AS=…."
            ) from error
        raise LedgerError(f"{ledger.directory} cannot be made ({error.strerror}).") from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def create_study(storage: optuna.storages.BaseStorage, name: str, space: SearchSpace) -> optuna.Study:
    """A new study, with the trials to start with enqueued."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=["maximize" if mode == "max" else "minimize" for mode in space.modes],
    )
    study.set_user_attr("metric", space.objective.metric)
    study.set_user_attr("mode", space.objective.mode)
    if len(space.objectives) > 1:
        study.set_user_attr("objectives", [objective.model_dump() for objective in space.objectives])
    for start in space.search.start_with:
        study.enqueue_trial(complete_start(space, start))
    return study
