"""Run, resume, extend: a search space becomes a ledger, and Ray Tune drives its trials until the study has all it asked for.

Everything that must be refused is refused before Ray starts.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import optuna
from rich.console import Console
from rich.text import Text

from sweeps import edits, manifest, resources
from sweeps.creation import create_ledger
from sweeps.errors import LedgerError
from sweeps.interruption import Interruption
from sweeps.ledger import Ledger
from sweeps.progress import Progress
from sweeps.space import SearchSpace, load_space
from sweeps.study import End, SweepStudy

EXIT_DONE, EXIT_STOPPED, EXIT_INTERRUPTED = 0, 1, 130
LOST_ACTOR_RETRIES = 3
"""How often a trial whose actor or node was lost is started again, from its last checkpoint."""

_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a trial's paths mean what they mean by hand
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger keeps the results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's own state is disposable
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run(space_name: str, name: str | None, root: Path, console: Console) -> int:
    """Validate the space, make the ledger, run the sweep; the exit status.

    Raises:
        SweepError: the space is refused, or the sweep's directory exists.
    """
    space = load_space(space_name)
    ledger = Ledger(name or space.name, root)
    if ledger.exists():
        raise LedgerError(
            f"{ledger.directory}/ exists: a sweep is never overwritten. Continue it with `{ledger.command('resume')}`, "
            f"give it more trials with `{ledger.command('extend')} TRIALS=+10`, or run this one under another name: "
            f"`make sweep NAME={space_name} AS={ledger.name}2{ledger.runs_variable}`."
        )
    if ledger.directory.exists():
        raise LedgerError(f"{ledger.directory} exists and holds no sweep: move it away, or choose another name with AS=….")
    _check(space, console)
    with Interruption() as interruption, _ray() as nodes:
        resources.concurrency(space.resources, nodes)
        if interruption.requested:
            console.print("interrupted before anything was written")
            return EXIT_INTERRUPTED
        create_ledger(ledger, space)
        with ledger.lock():
            return _drive(ledger, space, console, interruption)


def resume(name: str, root: Path, console: Console, recorded: bool = False) -> int:
    """Bring a sweep to its end: interrupted trials go on from their last checkpoints, the missing ones follow.

    Args: recorded: with the space as the sweep has recorded it, whatever was edited since.
    """
    return go_on(Ledger(name, root).require(), console, recorded=recorded)


def go_on(
    ledger: Ledger,
    console: Console,
    ask: Callable[[SearchSpace], SearchSpace] = lambda space: space,
    recorded: bool = False,
) -> int:
    """Hold an existing sweep, `ask` it for more, and bring it to its end.

    Args:
        ask: is called with the sweep's space while nobody else holds the sweep; it returns the space to go on with.
        recorded: see `edits.settle`.

    Raises:
        SpaceError: the search space was edited in a way that the sweep cannot take over.
    """
    with Interruption() as interruption, ledger.lock():
        return _drive(ledger, ask(edits.settle(ledger, console, recorded)), console, interruption)


def _check(space: SearchSpace, console: Console) -> None:
    """The deep validation: makes the data if need be, composes what the space can ask for, counts."""
    from lhtx.compose import build_datamodule, compose, configure
    from sweeps.validation import render, validate

    start = time.monotonic()
    console.print(Text.assemble((space.name, "bold"), f": {space.description}"))
    console.print(render(validate(space)))
    datamodule = build_datamodule(configure(compose(list(space.trial))))
    datamodule.prepare_data()
    datamodule.setup()  # reads every record: a damaged one is found here, not by each trial
    console.print(f"checked in {time.monotonic() - start:.1f} s", style="dim")


def _drive(ledger: Ledger, space: SearchSpace, console: Console, interruption: Interruption) -> int:
    """Run what the study still lacks; this process holds the sweep.

    Raises:
        LedgerError: the ledger cannot be written (any more).
    """
    try:
        study = SweepStudy(ledger, space, network_size)
        if study.complete:
            more = f"more: {ledger.command('extend')} TRIALS=+10"
            more = "every setting of the space has been tried" if study.exhausted else more
            console.print(f"{ledger.name}: all {study.ended.total()} trials have ended; {more}", soft_wrap=True)
            return EXIT_DONE
        manifest.open_session(ledger)
        start = time.monotonic()
        end = _work(study, console, interruption)
        manifest.close_session(ledger, "complete" if study.complete else end.value if end else "early")
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        if isinstance(error, ConnectionError):
            raise  # Ray's, not the disk's
        raise LedgerError(
            f"{ledger.directory} cannot be written: {error}. Nothing that has ended is lost; once that is mended, "
            f"go on with: {ledger.command('resume')}"
        ) from error
    return _conclude(study, end, time.monotonic() - start, console)


def _work(study: SweepStudy, console: Console, interruption: Interruption) -> End | None:
    """Start Ray and run trials; why that stopped early, or None."""
    space = study.space
    if study.interrupted:
        console.print(f"{study.interrupted} interrupted trials go on from their last checkpoints.")
    try:
        with _ray() as nodes:
            concurrency = resources.concurrency(space.resources, nodes)
            console.print(
                f"{study.target - study.ended.total()} trials to run, {min(concurrency, study.target)} at a time, "
                f"with {resources.told(space.resources)} each"
            )
            return End.INTERRUPTED if interruption.requested else _tune(study, space, console, concurrency, interruption)
    except KeyboardInterrupt:  # the second time
        return End.INTERRUPTED


def network_size(overrides: list[str]) -> int:
    """The parameters of the network that `overrides` compose."""
    from lhtx.compose import describe

    return describe(overrides).parameters


@contextmanager
def _ray() -> Iterator[list[resources.Node]]:
    """A Ray that is running (this process's, the one RAY_ADDRESS names, or a new one here); yields what each node has to give."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    def nodes() -> list[resources.Node]:
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]

    if ray.is_initialized():
        yield nodes()
        return
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",
            num_cpus=manifest.cpus(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=128 * 2**20,  # trials pass messages, not tensors
        )
    try:
        yield nodes()
    finally:
        ray.shutdown()


def _tune(study: SweepStudy, space: SearchSpace, console: Console, concurrency: int, interruption: Interruption) -> End | None:
    """Let Tune run until the study has enough; why it stopped early, or None."""
    from ray import tune

    from sweeps.searcher import ProgressCallback, StudyScheduler, StudySearcher, SweepStopper
    from sweeps.trainable import TrialActor

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker's traceback: the trial goes on elsewhere
    searcher = StudySearcher(study)
    stopper = SweepStopper(study, searcher, interruption, space.budget.hours)
    scratch = study.ledger.scratch_directory.resolve()
    shutil.rmtree(scratch, ignore_errors=True)  # a killed driver's
    try:
        with Progress(study, console, concurrency) as progress:
            tune.run(
                TrialActor,
                name=study.ledger.name,
                search_alg=searcher,
                scheduler=StudyScheduler(study),
                stop=stopper,
                callbacks=[ProgressCallback(study, progress.update)],
                num_samples=-1,
                resources_per_trial=resources.request(space.resources),
                reuse_actors=True,
                max_failures=LOST_ACTOR_RETRIES,
                storage_path=str(scratch),
                trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}",
                raise_on_failed_trial=False,
                verbose=0,
            )
            progress.update()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if searcher.error is not None:
        raise searcher.error
    return stopper.end


def _conclude(study: SweepStudy, end: End | None, seconds: float, console: Console) -> int:
    """Say how the sweep stands and what comes next; the exit status."""
    ended, ledger, budget = study.ended, study.ledger, study.space.budget.hours
    console.print(
        f"{ledger.name}: {ended.total()} of {study.target} trials ended "
        f"({ended['finished']} finished, {ended['spent']} spent, {ended['outranked']} pruned, {ended['broken']} broken, "
        f"{ended['failed']} failed) in {timedelta(seconds=round(seconds))}",
        soft_wrap=True,
    )
    if len(study.space.objectives) > 1:
        console.print(f"Pareto front: {study.front_text}", soft_wrap=True)
    elif study.best:
        number, value = study.best
        console.print(
            f"best {study.space.objective.metric} {value:.4g}: trial {number}, {ledger.trial(number).directory}", soft_wrap=True
        )
    if study.exhausted and ended.total() < study.target:
        console.print(f"every setting of the space has been tried: of {study.target} trials no more can run", soft_wrap=True)
    if study.complete and study.best:
        return EXIT_DONE
    unfinished = len(study.running) + study.interrupted
    go_on = f"{unfinished} unfinished trials kept their last checkpoints. Go on with: {ledger.command('resume')}"
    if end is End.INTERRUPTED:
        console.print(f"interrupted. {go_on}", soft_wrap=True)
        return EXIT_INTERRUPTED
    if end is End.BUDGET:
        console.print(f"the budget of {budget:g} hours is spent. {go_on}", soft_wrap=True)
        return EXIT_DONE
    if study.hopeless:
        console.print(Text.assemble(("stopped", "red"), f": the first trials all ended for one reason: {study.hopeless}"))
        if failed := sorted(ledger.trials_directory.glob("*/error.txt")):
            number = int(failed[0].parent.name)
            console.print(
                f"the first traceback: {failed[0]}; that trial alone: {ledger.command('debug')} TRIAL={number}", soft_wrap=True
            )
        console.print(f"once it is mended: {ledger.command('resume')}", soft_wrap=True)
    else:
        missing = "no trial came to a value" if study.complete else f"the sweep ended early. {go_on}"
        console.print(Text(missing, style="red"), soft_wrap=True)
    return EXIT_STOPPED
