"""The ledger's files: history that survives being cut off, names that are refused, a lock that dies with its holder."""

import math
import signal
import subprocess
import sys

import pytest

from sweeps.errors import LedgerError
from sweeps.ledger import History, Ledger, read_history


def test_paths():
    ledger = Ledger("mine", "some/where")
    assert ledger.trial(7).history.as_posix() == "some/where/mine/trials/0007/history.csv"
    assert ledger.trial(12345).last_checkpoint.as_posix() == "some/where/mine/trials/12345/checkpoints/last.ckpt"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden"])
def test_names_that_are_no_directory_of_their_own_are_refused(name):
    with pytest.raises(LedgerError, match="cannot be named"):
        Ledger(name)


def test_a_missing_sweep_lists_near_names(tmp_path):
    for name in ("quickstart", "other"):
        ledger = Ledger(name, tmp_path)
        ledger.directory.mkdir()
        ledger.write_manifest({"name": name})
    with pytest.raises(LedgerError, match=r"There is no sweep 'quickstrat' in .*Did you mean quickstart"):
        Ledger("quickstrat", tmp_path).require()
    with pytest.raises(LedgerError, match="There is none yet"):
        Ledger("quickstart", tmp_path / "empty").require()


def test_history_round_trip_is_exact(tmp_path):
    history = History.open(tmp_path / "history.csv")
    history.append(1, 0.5, {"val/acc": 0.1 + 0.2, "train/loss": math.inf})
    history.append(2, 1.25, {"val/acc": 1e-17, "train/loss": math.nan}, "outranked")
    first, second = read_history(tmp_path / "history.csv")
    assert first == {"epoch": 1, "seconds": 0.5, "val/acc": 0.1 + 0.2, "train/loss": math.inf, "verdict": ""}
    assert second["val/acc"] == 1e-17
    assert math.isnan(second["train/loss"])
    assert second["verdict"] == "outranked"


def test_a_metric_that_appears_later_gets_its_column(tmp_path):
    history = History.open(tmp_path / "history.csv")
    history.append(1, 1, {"val/acc": 0.1})
    history.append(2, 2, {"val/acc": 0.2, "grad/cosine": 0.3})
    rows = read_history(tmp_path / "history.csv")
    assert "grad/cosine" not in rows[0]
    assert rows[1]["grad/cosine"] == 0.3


def test_epochs_said_again_replace_the_old_ones(tmp_path):
    history = History.open(tmp_path / "history.csv")
    for epoch in (1, 2, 3):
        history.append(epoch, epoch, {"val/acc": epoch / 10})
    again = History.open(tmp_path / "history.csv")
    again.append(2, 2.5, {"val/acc": 0.9})
    assert [(row["epoch"], row["val/acc"]) for row in read_history(tmp_path / "history.csv")] == [(1, 0.1), (2, 0.9)]


def test_a_line_cut_off_by_a_kill_is_dropped_and_written_again(tmp_path):
    path = tmp_path / "history.csv"
    history = History.open(path)
    history.append(1, 1, {"val/acc": 0.1})
    history.append(2, 2, {"val/acc": 0.2})
    path.write_bytes(path.read_bytes()[:-5])
    assert [row["epoch"] for row in read_history(path)] == [1]
    History.open(path).append(2, 2, {"val/acc": 0.2})
    assert [row["val/acc"] for row in read_history(path)] == [0.1, 0.2]


def test_a_damaged_study_and_manifest_say_so(tmp_path):
    ledger = Ledger("hurt", tmp_path)
    ledger.directory.mkdir()
    ledger.write_manifest({})
    with pytest.raises(LedgerError, match=r"study\.db is missing"):
        ledger.study()
    (ledger.directory / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(LedgerError, match=r"study\.db cannot be opened as an SQLite database"):
        ledger.study()
    ledger.manifest_file.write_text('{"name": ')
    with pytest.raises(LedgerError, match=r"manifest\.json: line 1: not JSON"):
        ledger.manifest()


def test_a_second_holder_is_told_of_the_first_and_a_dead_one_lets_go(tmp_path):
    ledger = Ledger("held", tmp_path)
    ledger.directory.mkdir()
    code = (
        "import sys, time\n"
        "from sweeps.ledger import Ledger\n"
        f"with Ledger('held', {str(tmp_path)!r}).lock():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LedgerError, match=f"is being run by process {holder.pid} on "), ledger.lock():
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with ledger.lock():
        assert (ledger.directory / ".holder").exists()
    assert not (ledger.directory / ".holder").exists()


@pytest.mark.parametrize("text", [b"epoch,seconds,verdict\n1,0.5,\nx,0.5,\n", b"epoch,seconds,verdict\n1,0.5,\n2,\xff,\n"])
def test_a_damaged_history_is_refused_by_name(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_bytes(text)
    with pytest.raises(LedgerError, match=r"history\.csv: row \d is damaged"):
        read_history(path)
