"""Run, resume, extend: a search space becomes a ledger, and Ray Tune drives its trials until the study has all it asked for.

Everything that must be refused is refused before Ray starts.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lhtx.files import check_directory
from sweeps import edits, housekeeping, manifest, older_study, ray_cluster, ray_dashboard, resources, warm_start
from sweeps.cluster.fetch import require_at_rest
from sweeps.creation import create_ledger
from sweeps.database import Patience
from sweeps.errors import LedgerError, StorageError
from sweeps.interruption import Interruption
from sweeps.ledger import Ledger
from sweeps.notify import Notification, notifying
from sweeps.places import chosen
from sweeps.progress import Progress
from sweeps.space import SearchSpace, load_space
from sweeps.storage import check, wait_for, writing_ahead
from sweeps.study import End, SweepStudy
from sweeps.validated import render
from sweeps.warm import warm

EXIT_DONE, EXIT_STOPPED, EXIT_INTERRUPTED = 0, 1, 130
LOST_ACTOR_RETRIES = 3
"""How often a trial whose actor or node was lost is started again, from its last checkpoint."""


def run(space_name: str, name: str | None, root: Path, console: Console) -> int:
    """Validate the space, make the ledger, run the sweep; the exit status.

    Raises:
        SweepError: the space is refused, or the sweep's directory exists.
    """
    space = load_space(space_name)
    ledger = Ledger(name or space.name, root)
    if ledger.exists():
        if holder := ledger.holder():
            raise LedgerError(
                f"The sweep {ledger.name!r} is being run by {holder}. See how it stands with `{ledger.command('status')}`, "
                f"or run this one under another name with AS={ledger.name}2."
            )
        raise LedgerError(
            f"{ledger.directory}/ exists: a sweep is never overwritten. Continue it with `{ledger.command('resume')}`, "
            f"give it more trials with `{ledger.command('extend')} TRIALS=+10`, or run this one under another name: "
            f"`make sweep NAME={space_name} AS={ledger.name}2{ledger.runs_variable}`."
        )
    if ledger.directory.exists():
        raise LedgerError(f"{ledger.directory} exists and holds no sweep: move it away, or choose another name with AS=….")
    check_directory(root, "RUNS")
    sources = warm_start.sources(space, root, ledger)
    for line in (line for source in sources for line in source.told()):
        console.print(line, soft_wrap=True)
    if told := check(chosen(space.storage)):
        console.print(f"the study will be in {told}", soft_wrap=True)
    housekeeping.check(space, ledger)
    console.print(Text.assemble((space.name, "bold"), f": {space.description}"))
    with Interruption() as interruption, warm(space) as server:
        server.begin_check(space_name)
        with ray_cluster.connected(space, console) as nodes:  # meanwhile
            resources.concurrency(space.resources, nodes)  # refuses what no node has
            import sweeps.searcher  # noqa: F401  Tune, which takes a second

            validation = server.check(space, interruption)
            if validation is None or interruption.requested:
                console.print("interrupted before anything was written")
                return EXIT_INTERRUPTED
            console.print(render(validation))
            console.print(f"checked in {validation.seconds:.1f} s", style="dim")
            with notifying(console) as notification:
                create_ledger(ledger, space, sources, validation.group_size)
                with ledger.lock():
                    return _drive(ledger, replace(space, fuse=validation.group_size), console, interruption, notification)


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
    with notifying(console) as notification, Interruption() as interruption, ledger.lock():
        require_at_rest(ledger)
        return _drive(ledger, ask(edits.settle(ledger, console, recorded)), console, interruption, notification)


def _drive(ledger: Ledger, space: SearchSpace, console: Console, interruption: Interruption, notification: Notification) -> int:
    """Run what the study still lacks; this process holds the sweep.

    Raises:
        LedgerError: the ledger cannot be written (any more).
    """
    study = None
    wait_for(ledger.storage, Patience(lambda text: console.print(text, soft_wrap=True), lambda: interruption.requested))
    try:
        older_study.settle(ledger, space, console)
        study = SweepStudy(ledger, space, network_size)
        if study.complete:
            more = f"more: {ledger.command('extend')} TRIALS=+10"
            more = "every setting of the space has been tried" if study.exhausted else more
            more = "a population does not grow" if space.stopping.scheduler == "pbt" else more
            console.print(f"{ledger.name}: all {study.ended.total()} trials have ended; {more}", soft_wrap=True)
            return EXIT_DONE
        if study.account.spent:
            console.print(f"{ledger.name}: {_budget(study)}; nothing was started", soft_wrap=True)
            return EXIT_DONE
        ahead = writing_ahead(ledger.storage, ledger.place, ledger.directory)
        with ahead, housekeeping.beside(study, console, notification):
            manifest.open_session(ledger)
            study.account.begin()
            end = _work(study, console, interruption)
            took = study.account.seconds
            manifest.close_session(ledger, "complete" if study.complete else end.value if end else "early", took)
        notification.end(*housekeeping.outcome(study, end))
    except (OSError, StorageError) as error:
        if study is None or isinstance(error, ConnectionError):
            raise  # the study cannot be read; or it is Ray's, not the disk's
        what = str(error) if isinstance(error, StorageError) else f"{ledger.directory} cannot be written: {error}."
        raise LedgerError(
            f"{what} Nothing that has ended is lost; once that is mended, go on with: {ledger.command('resume')}"
        ) from error
    return _conclude(study, end, took, console)


def _budget(study: SweepStudy) -> str:
    """That the budget is spent, and how to give more."""
    return f"the budget is spent: {study.account}. Go on with more of it: {study.account.more}"


def _work(study: SweepStudy, console: Console, interruption: Interruption) -> End | None:
    """Start Ray and run trials; why that stopped early, or None."""
    space = study.space
    if study.interrupted:
        goes_on = "goes on from its last checkpoint" if study.interrupted == 1 else "go on from their last checkpoints"
        console.print(f"{_counted(study.interrupted, 'interrupted trial')} {goes_on}.")
    try:
        with warm(space) as server, ray_cluster.connected(space, console) as nodes:
            ray_dashboard.tell(console)
            concurrency = resources.concurrency(space.resources, nodes)
            shared = (
                f"{concurrency} groups of up to {space.group_size}" if space.group_size > 1 else min(concurrency, study.target)
            )
            console.print(
                f"{_counted(study.target - study.ended.total(), 'trial')} to run, {shared} at a time, "
                f"with {resources.told(space.resources)} each"
            )
            if interruption.requested:
                return End.INTERRUPTED
            return _tune(study, space, console, concurrency, interruption, server.token)
    except KeyboardInterrupt:  # the second time
        return End.INTERRUPTED


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def network_size(overrides: list[str]) -> int:
    """The parameters of the network that `overrides` compose."""
    from lhtx.compose import describe

    return describe(overrides).parameters


def _tune(
    study: SweepStudy, space: SearchSpace, console: Console, concurrency: int, interruption: Interruption, server: str
) -> End | None:
    """Let Tune run until the study has enough; why it stopped early, or None.

    Args: server: by which a node's slots find what serves them.
    """
    from ray import tune
    from ray.air._internal import usage

    from sweeps.groups import Groups
    from sweeps.searcher import ProgressCallback, StudyScheduler, StudySearcher, SweepStopper
    from sweeps.transfer import trainable

    usage.tag_callbacks = lambda callbacks: False  # to count ours, it would import MLflow and others: another second
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker's traceback: the trial goes on elsewhere
    stopper, groups = SweepStopper(study, interruption), Groups(study, concurrency, more=ray_cluster.joined())
    scratch = study.ledger.scratch_directory.resolve()
    shutil.rmtree(scratch, ignore_errors=True)  # a killed driver's
    try:
        with (
            ray_cluster.for_tune(),
            trainable(study.ledger, space, scratch) as (actor, lost),
            Progress(study, console, concurrency) as progress,
        ):
            tune.run(
                actor,
                name=study.ledger.name,
                search_alg=StudySearcher(study, groups, server),
                scheduler=StudyScheduler(study, groups, lost),
                stop=stopper,
                callbacks=[ProgressCallback(study, progress.update)],
                num_samples=-1,
                resources_per_trial=resources.request(space.resources),
                reuse_actors=True,
                max_failures=LOST_ACTOR_RETRIES,
                storage_path=str(scratch),
                trial_dirname_creator=lambda trial: f"{trial.config['group'][0]['number']:04d}-{trial.trial_id}",
                raise_on_failed_trial=False,
                verbose=0,
            )
            progress.update()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if study.error is not None:
        raise study.error
    return stopper.end


def _conclude(study: SweepStudy, end: End | None, seconds: float, console: Console) -> int:
    """Say how the sweep stands and what comes next; the exit status."""
    ended, ledger = study.ended, study.ledger
    console.print(
        f"{ledger.name}: {ended.total()} of {study.target} trials ended "
        f"({ended['finished']} finished, {ended['spent']} spent, {ended['outranked']} pruned, {ended['broken']} broken, "
        f"{ended['failed']} failed) in {timedelta(seconds=round(seconds))}",
        soft_wrap=True,
    )
    if str(study.account) and end is not End.BUDGET:  # else it is told below
        console.print(f"budget: {study.account}", soft_wrap=True)
    if len(study.space.objectives) > 1:
        console.print(f"Pareto front: {study.front_text}", soft_wrap=True)
    elif winner := study.found.winner:
        best = f"best {study.space.objective.metric} {winner.values[0]:.4g}{winner.by()}: trial {winner.number}"
        console.print(f"{best}, {ledger.trial(winner.number).directory}", soft_wrap=True)
    if infeasible := study.found.infeasible:
        none = "" if study.best else ": none is within them, so that there is no best"
        console.print(f"{infeasible} of {study.found.complete_trials} complete trials break an outcome constraint{none}")
    if study.exhausted and ended.total() < study.target:
        console.print(f"every setting of the space has been tried: of {study.target} trials no more can run", soft_wrap=True)
    if study.complete and study.found.complete_trials:
        return EXIT_DONE
    unfinished = len(study.running) + study.interrupted
    checkpoints = "its last checkpoint" if unfinished == 1 else "their last checkpoints"
    kept = f"{_counted(unfinished, 'unfinished trial')} kept {checkpoints}."
    go_on = f"{kept} Go on with: {ledger.command('resume')}"
    if end is End.INTERRUPTED:
        console.print(f"interrupted. {go_on}", soft_wrap=True)
        return EXIT_INTERRUPTED
    if end is End.BUDGET:
        console.print(f"{_budget(study)}. {kept}", soft_wrap=True)
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
