"""A search space edited between run and resume: in the file that the sweep began from, and in the sweep's own copy."""

from __future__ import annotations

import pytest

from sweeps import more
from sweeps.cli import main
from sweeps.edits import edits, keep, settle
from sweeps.errors import SpaceError
from sweeps.space import dump

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
    assert f"make sweep NAME={tmp_path / 'test.yaml'} AS=test2 RUNS={ledger.root}" in message
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


def test_a_source_that_is_gone_stops_nothing(ledger, console, tmp_path):
    (tmp_path / "test.yaml").unlink()
    assert settle(ledger, console).search.trials == 3
    assert console.file.getvalue() == ""


@pytest.fixture
def refused(ledger, console):
    """A function: what a refused `settle` says; it has written nothing."""

    def refused(**options):
        files = (ledger.space_file, ledger.manifest_file)
        before = [file.read_bytes() for file in files]
        with pytest.raises(SpaceError) as raised:
            settle(ledger, console, **options)
        assert [file.read_bytes() for file in files] == before
        assert console.file.getvalue() == ""
        return str(raised.value)

    return refused


def test_a_source_that_cannot_be_read_is_refused_until_it_is_mended_or_gone_on_without(
    ledger, edit, refused, console, tmp_path
):
    edit("trials: 3", "trials: many")
    assert refused() == (
        f"{tmp_path / 'test.yaml'} is no search space that the sweep 'test' could go on with:\n"
        f"  {tmp_path / 'test.yaml'}:7: search.trials: found 'many': input should be a valid integer\n"
        f"Mend it; or go on without it, with `make resume NAME=test RUNS={ledger.root} ARGS=--recorded`."
    )
    assert settle(ledger, console, recorded=True).search.trials == 3
    assert settle(ledger, console).search.trials == 3  # it is known now
    edit("trials: many", "trials: all")
    assert "found 'all'" in refused()
    edit("trials: all", "trials: 7")
    assert settle(ledger, console).search.trials == 7
    assert "unread" not in ledger.manifest()["space"]


def test_an_unreadable_source_that_resume_is_told_of_ends_with_status_2(ledger, edit, monkeypatch, capsys):
    edit("trials: 3", "trials: many")
    monkeypatch.setattr("sys.argv", ["sweeps", "resume", "test", "--runs", str(ledger.root)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "Mend it; or go on without it" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [None, b"search: {trials: 3", b"\xff\xfe"])
def test_a_copy_that_cannot_be_read_is_refused_and_written_anew_from_what_was_recorded(ledger, refused, console, damage):
    whole = ledger.space_file.read_bytes()
    if damage is None:
        ledger.space_file.unlink()
        with pytest.raises(SpaceError, match="There is no file"):
            settle(ledger, console)
    else:
        ledger.space_file.write_bytes(damage)
        assert "ARGS=--recorded" in refused()
    assert settle(ledger, console, recorded=True) == ledger.space()
    assert ledger.space_file.read_bytes() == whole


def test_edits_that_do_not_go_together_are_refused(ledger, edit, refused, console):
    starts = "start_with:\n  - {model.optimizer.lr: 0.01}\n  - {model.optimizer.lr: 0.02}"
    record = ledger.manifest()
    text = ledger.space_file.read_text().replace("start_with: []", starts)  # as if the sweep had begun with them
    ledger.space_file.write_text(text)
    ledger.write_manifest({**record, "space": {**record["space"], "kept": dump(ledger.space())}})
    edit("trials: 3", "trials: 1")
    message = refused()
    assert message.startswith(f"The edits of {ledger.space_file} and of ")
    assert "\n  search.start_with: 2 settings to start with, but trials is 1\n" in message
    assert settle(ledger, console, recorded=True).search.trials == 3


def test_a_record_that_is_refused_is_not_written(ledger, refused):
    record = ledger.manifest()
    kept = record["space"]["kept"].replace("trials: 3", "trials: 0")
    ledger.write_manifest({**record, "space": {**record["space"], "kept": kept}})
    assert "search.trials: found 0" in refused(recorded=True)


def test_options_go_with_the_sampler_that_they_are_of(ledger, edit, console):
    edit("sampler_options: {}", "sampler_options: {n_startup_trials: 5}", ledger.space_file)
    edit("trials: 3", "trials: 3, sampler: random")
    search = settle(ledger, console).search
    assert (search.sampler, search.sampler_options) == ("random", {})
    assert console.file.getvalue().splitlines()[-1] == (
        "changed with the sampler: search.sampler_options: {'n_startup_trials': 5} → {}"
    )


def test_options_of_another_sampler_than_the_copy_s_are_left_out(ledger, edit, console):
    edit("sampler: tpe", "sampler: qmc", ledger.space_file)
    edit("trials: 3", "trials: 3, sampler_options: {n_startup_trials: 5}")
    search = settle(ledger, console).search
    assert (search.sampler, search.sampler_options) == ("qmc", {})
    assert "sampler_options: {'n_startup_trials': 5} → {}" in console.file.getvalue().splitlines()[-1]


def test_options_of_the_same_sampler_are_kept_and_a_new_one_s_are_taken(ledger, edit, console):
    edit("sampler_options: {}", "sampler_options: {n_startup_trials: 5}", ledger.space_file)
    edit("trials: 3", "trials: 5")
    assert settle(ledger, console).search.sampler_options == {"n_startup_trials": 5}
    edit("trials: 5", "trials: 5, sampler: qmc, sampler_options: {qmc_type: halton}")
    assert settle(ledger, console).search.sampler_options == {"qmc_type": "halton"}


def test_an_edit_leaves_words_words(make_ledger, edit, console):
    entries = "  model.net.mode: {choice: [on, off, yes, no]}\n  model.net.flag: {choice: [true, false]}\n"
    ledger = make_ledger(f"{entries}search: {{trials: 3}}\nstopping: {{scheduler: fifo, guard: {{mode: off}}}}\n")
    before = ledger.space_file.read_text()
    edit("trials: 3", "trials: 7")
    space = settle(ledger, console)
    assert ledger.space_file.read_text() == before.replace("trials: 3", "trials: 7")
    assert space.parameters["model.net.mode"].distribution.options == ("on", "off", "yes", "no")
    assert space.stopping.guard.mode == "off"


@pytest.mark.parametrize(
    ("old", "new"), [("[on, off]", "[true, false]"), ("[1, 0]", "[true, false]"), ("[1, 0]", "[1.0, 0.0]")]
)
def test_a_word_or_a_number_that_becomes_another_kind_of_value_is_an_edit(make_ledger, edit, console, old, new):
    ledger = make_ledger(f"  model.net.mode: {{choice: {old}}}\nsearch: {{trials: 2}}\nstopping: {{scheduler: fifo}}\n")
    edit(old, new)
    with pytest.raises(SpaceError, match=r"space\.model\.net\.mode: .* → "):
        settle(ledger, console)


def test_edits_name_what_came_and_went():
    found = edits("a: 1\nsearch: {x: 1, y: 2}\n", "b: [1]\nsearch: {x: 1, y: 3}\n")
    assert list(map(str, found)) == ["a: 1 → nothing", "search.y: 2 → 3", "b: nothing → [1]"]
    assert not any(edit.allowed for edit in found)


def test_a_default_that_a_later_version_writes_out_is_no_edit(ledger, console):
    record = ledger.manifest()
    said = record["space"]["said"]
    older = said.replace("explode_factor: 100.0, ", "").replace("\nconstraints: []\n", "\n")
    assert len(said) - len(older) > 30
    ledger.write_manifest({**record, "space": {**record["space"], "said": older, "kept": older}})
    settle(ledger, console)
    assert console.file.getvalue() == ""
