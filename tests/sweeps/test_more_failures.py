"""What was asked for and failed again: the command says so by its exit status, and how it is asked for once more. No Ray."""

from __future__ import annotations

import pytest

from sweeps import more
from sweeps.errors import SweepError
from sweeps.ledger import CONTINUES, EPOCHS


@pytest.fixture
def driven(monkeypatch, open_study):
    """A function: lets `go_on` also run what was asked for, each trial by the function given, if any, and then say that
    it is done."""

    def drive(act):
        def go_on(ledger, console, ask):
            ask(ledger.space())
            study = open_study(ledger)
            while act and (proposal := study.propose()):
                study.begin(proposal["number"])
                act(study, proposal["number"])
            return 0

        monkeypatch.setattr(more, "go_on", go_on)

    return drive


def fails(study, number):
    study.fail(number, {"error": "ValueError: no"})


def test_a_continuation_that_failed_is_asked_for_again_as_it_was(ended, driven, console):
    driven(fails)
    more.continue_trial("test", 0, "+2", ended.root, console)
    again = f"{ended.command('continue')} TRIAL=0 EPOCHS=4"
    told = f"trained trial 0 further and failed (error); ask for that again with `{again}`"
    console.file.truncate(0)
    console.file.seek(0)
    assert more.retry("test", None, ended.root, console) == 0
    assert more.retry("test", "oom", ended.root, console) == 0
    assert console.file.getvalue().splitlines() == [
        "test: no failed trial to retry but continuations.",
        f"trial 3 {told}",
        "test: no oom trial to retry.",
    ]
    with pytest.raises(SweepError) as refused:
        more.continue_trial("test", 3, "4", ended.root, console)
    assert str(refused.value).startswith(f"--trial 3: it has ended as failed; it {told}. ")
    driven(None)
    more.continue_trial("test", 0, "4", ended.root, console)
    assert ended.study().get_trials()[4].user_attrs == {CONTINUES: 0, EPOCHS: 4}
    console.file.truncate(0)
    more.retry("test", None, ended.root, console)
    assert "TRIAL=0" not in console.file.getvalue()  # it is asked for already


def test_a_continuation_that_failed_is_no_success_of_the_command(ended, report_epoch, driven, console):
    driven(fails)
    assert more.continue_trial("test", 0, "4", ended.root, console) == 1
    assert console.file.getvalue().splitlines()[-1] == "test: all trials that were asked for failed: 3 (error)"

    def finishes(study, number):
        report_epoch(study, number, 3, 0.45, max_epochs=4)
        study.finish(number, {"metrics": {}, "seconds": 4.0})

    driven(finishes)
    assert more.continue_trial("test", 0, "4", ended.root, console) == 0
    assert more.continue_trial("test", 0, "4", ended.root, console) == 0  # it is there already


def test_retries_that_all_failed_again_are_no_success_of_the_command(
    make_ledger, open_study, run_trial, report_epoch, driven, console
):
    ledger = make_ledger("search: {trials: 3, seed: 3}\nstopping: {scheduler: fifo}\n")
    study = open_study(ledger)
    for _ in range(2):
        number = study.propose()["number"]
        study.begin(number)
        fails(study, number)
    run_trial(study, [0.5])
    driven(fails)
    assert more.retry("test", None, ledger.root, console) == 1
    assert console.file.getvalue().splitlines()[-1] == "test: all trials that were asked for failed: 3 (error), 4 (error)"

    def one_finishes(study, number):
        if number == 5:
            return fails(study, number)
        report_epoch(study, number, 1, 0.5)
        return study.finish(number, {"metrics": {}, "seconds": 1.0})

    driven(one_finishes)
    assert more.retry("test", None, ledger.root, console) == 0
    driven(fails)
    assert more.retry("test", "oom", ledger.root, console) == 0  # nothing was asked for
