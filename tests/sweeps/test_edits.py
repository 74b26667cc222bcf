"""A search space edited between run and resume: in the file that the sweep began from, and in the sweep's own copy."""

from __future__ import annotations

import pytest

from sweeps import more
from sweeps.edits import edits, keep, settle
from sweeps.errors import SpaceError

TEXT = "search: {trials: 3, seed: 3}\nstopping: {scheduler: fifo}\n"


@pytest.fixture
def ledger(make_ledger):
    return make_ledger(TEXT)


@pytest.fixture
def edit(tmp_path):
    """A function: what is replaced in the source, or in another file, and by what."""

    def edit(old, new, file=tmp_path / "test.yaml"):
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return edit


def test_without_an_edit_nothing_is_said_and_nothing_changes(ledger, console):
    before = ledger.space_file.read_text()
    assert settle(ledger, console) == ledger.space()
    assert (console.file.getvalue(), ledger.space_file.read_text()) == ("", before)


def test_allowed_edits_of_the_source_are_shown_and_taken_over_once(ledger, edit, console, tmp_path):
    edit("trials: 3", "trials: 7")
    edit("A test's space.", "Another word.")
    space = settle(ledger, console)
    assert (space.search.trials, space.description) == (7, "Another word.")
    assert ledger.space() == space
    assert console.file.getvalue().splitlines() == [
        f"changed in {tmp_path / 'test.yaml'}: description: A test's space. → Another word.",
        f"changed in {tmp_path / 'test.yaml'}: search.trials: 3 → 7",
    ]
    settle(ledger, console)
    assert len(console.file.getvalue().splitlines()) == 2


def test_what_a_command_changed_is_no_edit(ledger, edit, console, monkeypatch):
    monkeypatch.setattr(more, "go_on", lambda ledger, console, ask: ask(settle(ledger, console)) and 0)
    more.extend("test", "+5", None, ledger.root, console)
    edit("A test's space.", "Another word.")
    assert settle(ledger, console).search.trials == 8
    assert "trials" not in console.file.getvalue().splitlines()[-1]


def test_a_kill_between_the_copy_and_the_note_is_an_allowed_edit(ledger, console, monkeypatch):
    monkeypatch.setattr(type(ledger), "write_manifest", lambda *arguments: 1 / 0)
    space = ledger.space()
    with pytest.raises(ZeroDivisionError):
        keep(ledger, type(space)(**{**vars(space), "search": space.search.model_copy(update={"trials": 9})}))
    monkeypatch.undo()
    assert settle(ledger, console).search.trials == 9


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("1.0e-1", "2.0e-1", "space.model.optimizer.lr: "),
        ("val/avg_acc, mode: max", "val/loss, mode: min", "objective"),
        ("experiment=vimh", "experiment=vimh, trainer.max_epochs=3", "trial: ['experiment=vimh'] → "),
        ("seed: 3", "seed: 4", "search.seed: 3 → 4"),
        ("scheduler: fifo", "scheduler: asha", "stopping.scheduler: fifo → asha"),
    ],
)
def test_what_trials_are_compared_by_must_stay(ledger, edit, console, tmp_path, old, new, told):
    before = ledger.space_file.read_text()
    edit(old, new)
    with pytest.raises(SpaceError) as refused:
        settle(ledger, console)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'test.yaml'} was edited since the sweep 'test' began")
    assert told in message
    assert f"make sweep NAME=test AS=test2 RUNS={ledger.root}" in message
    assert f"make resume NAME=test RUNS={ledger.root} ARGS=--recorded" in message
    assert ledger.space_file.read_text() == before
    assert ledger.space() == settle(ledger, console, recorded=True)
    settle(ledger, console)  # it is known now


def test_the_sweep_s_own_copy_may_be_edited_by_the_same_rules(ledger, edit, console):
    edit("trials: 3", "trials: 4", ledger.space_file)
    assert settle(ledger, console).search.trials == 4
    assert f"changed in {ledger.space_file}: search.trials: 3 → 4" in console.file.getvalue()
    edit("seed: 3", "seed: 5", ledger.space_file)
    with pytest.raises(SpaceError, match=r"space\.yaml was edited"):
        settle(ledger, console)
    assert settle(ledger, console, recorded=True).search.seed == 3


def test_a_source_that_is_gone_or_unreadable_stops_nothing(ledger, edit, console, tmp_path):
    edit("trials: 3", "trials: many")
    assert settle(ledger, console).search.trials == 3
    assert "The sweep goes on with its own copy." in console.file.getvalue()
    (tmp_path / "test.yaml").unlink()
    assert settle(ledger, console).search.trials == 3


def test_edits_name_what_came_and_went():
    found = edits("a: 1\nsearch: {x: 1, y: 2}\n", "b: [1]\nsearch: {x: 1, y: 3}\n")
    assert list(map(str, found)) == ["a: 1 → nothing", "search.y: 2 → 3", "b: nothing → [1]"]
    assert not any(edit.allowed for edit in found)


def test_a_default_that_a_later_version_writes_out_is_no_edit(ledger, console):
    record = ledger.manifest()
    said = record["space"]["said"]
    older = said.replace("explode_factor: 100.0, ", "").replace("constraints: []\n", "")
    assert len(said) - len(older) > 30
    ledger.write_manifest({**record, "space": {**record["space"], "said": older, "kept": older}})
    settle(ledger, console)
    assert console.file.getvalue() == ""
