"""What a driver does beside running trials: checkpoints that go, a copy elsewhere, TensorBoard's table, who is told.

Each is a module that knows nothing of the others; here they are put together in the order that they need.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.text import Text

from sweeps import hparams, quota
from sweeps.errors import Problem, SpaceError
from sweeps.ledger import Ledger
from sweeps.mirror import Mirror, mirrored_to, open_mirror
from sweeps.mirror_target import open_target
from sweeps.notify import Ending, Notification, missing
from sweeps.outputs import NotifyEvent, Results
from sweeps.results_place import VARIABLE, ResultsPlace, chosen
from sweeps.schema import SearchSpace
from sweeps.stopping import Verdict
from sweeps.study import End, SweepStudy


def check(space: SearchSpace, ledger: Ledger) -> None:
    """Refuses what a new sweep could not do, before anything is made.

    Raises:
        SpaceError: who is to be told cannot be.
        MirrorError: where it is to be copied to cannot be written, or holds another sweep.
    """
    if problem := missing(space.outputs.notify):
        path = ("notify", "command")
        raise SpaceError([Problem(space.where(path), f"{'.'.join(path)}: {problem}. Nothing was started")])
    if place := _place(space):
        open_target(place, ledger)


def _place(space: SearchSpace) -> ResultsPlace | None:
    return chosen(space.outputs.results.url if space.outputs.results else None)


@contextmanager
def beside(study: SweepStudy, console: Console, notification: Notification) -> Iterator[None]:
    """Put round the run of a sweep's trials, from where its study has been opened to where its manifest is closed.

    Raises:
        MirrorError: where it is to be copied to cannot be written, or holds another sweep.
        OSError: the sweep's directory cannot be written.
    """
    mirror = _mirror(study, console)

    keeper = quota.Keeper(study.ledger, study.space, study.trials)

    def kin(number: int) -> list[FrozenTrial]:
        return [study.trial(each) for each in study.found.kin(number)]

    def tidy() -> None:
        keeper.everything()
        hparams.write(study.ledger, study.space, study.trials())

    def ended(number: int, verdict: Verdict) -> None:
        if verdict.verdict == "rejected":
            return
        keeper.ended(number, kin, study.open_trials())
        hparams.write(study.ledger, study.space, [study.trial(number)])
        if mirror:
            mirror.wake(number)

    if problem := missing(study.space.outputs.notify):  # a new sweep was refused; this one goes on
        console.print(Text.assemble(("notify", "yellow"), f": {problem}"), soft_wrap=True)
    notification.begin(study.space.outputs.notify, partial(ending, study))
    tidy()
    study.on_end.append(ended)
    if mirror:
        mirror.start(trial.number for trial in study.study.get_trials(deepcopy=False) if trial.state.is_finished())
    try:
        yield
        tidy()  # a trial that was told to end has written its last checkpoint since
    except Exception:
        if mirror:
            _close(mirror, console)
        raise
    except BaseException:
        if mirror:
            mirror.leave()
        raise
    if mirror:
        _close(mirror, console)


def _mirror(study: SweepStudy, console: Console) -> Mirror | None:
    place, earlier = _place(study.space), mirrored_to(study.ledger)
    if place is None:
        if earlier:
            console.print(
                Text.assemble(
                    ("not copied", "yellow"),
                    f": the copy at {earlier.of(study.ledger.name).shown} stays as it is, as neither `results` nor {VARIABLE} "
                    "names a place",
                ),
                soft_wrap=True,
            )
            study.ledger.mirrored_file.unlink()  # told once; and `push` is not to send anything there by itself
        return None
    results = study.space.outputs.results or Results(url=place.url)
    mirror = open_mirror(
        place,
        study.ledger,
        results.every_minutes,
        lambda text: console.print(Text.assemble(("results", "yellow"), f": {text}"), soft_wrap=True),
    )
    console.print(f"results are copied to {mirror.target.place.shown}", soft_wrap=True)
    return mirror


def _close(mirror: Mirror, console: Console) -> None:
    if problem := mirror.close():
        again = f"send them with: {mirror.ledger.command('push')}"
        console.print(Text.assemble(("not copied", "red"), f": {problem}; {again}"), soft_wrap=True)


def ending(study: SweepStudy, state: NotifyEvent, message: str) -> Ending:
    """How the sweep stands, for whoever is told."""
    number, value = study.best or (None, None)
    return Ending(
        name=study.ledger.name,
        state=state,
        directory=str(Path(study.ledger.directory).resolve()),
        metric=study.space.objective.metric,
        best_trial=number,
        best_value=value,
        ended=dict(study.ended),
        message=message,
    )


def outcome(study: SweepStudy, end: End | None) -> tuple[NotifyEvent, str]:
    """What a run has come to, and in a sentence."""
    said = f"{study.ended.total()} of {study.target} trials have ended"
    if study.complete:
        if study.best:
            return "complete", said
        if study.found.complete_trials:
            return "complete", f"{said}, none of them within the outcome constraints"
        return "failed", f"{said}, none of them with a value"
    if study.hopeless:
        return "failed", f"{said}; the first all ended for one reason: {study.hopeless}"
    states: dict[End | None, NotifyEvent] = {End.INTERRUPTED: "interrupted", End.BUDGET: "budget"}
    return states.get(end, "failed"), said
