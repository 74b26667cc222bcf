"""Kinds of failure: read from verdicts, recorded with them."""

from __future__ import annotations

import pytest

from sweeps.failures import FAILURES, classify
from sweeps.process import TrialProcess, memory_kills


@pytest.mark.parametrize(
    ("verdict", "reason", "kind"),
    [
        ("failed", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …", "oom"),
        ("failed", "RuntimeError: MPS backend out of memory (MPS allocated: 8.00 GB)", "oom"),
        ("failed", "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes", "oom"),
        ("failed", "OSError: [Errno 12] Cannot allocate memory", "oom"),
        ("failed", "MemoryError: ", "oom"),
        ("failed", "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "oom"),
        ("failed", "killed by SIGKILL: the system was out of memory", "oom"),
        ("failed", "its process was lost too often: ray.exceptions.OutOfMemoryError: Task was killed due to the node", "oom"),
        ("failed", "killed by SIGKILL: by hand, as memory did not run out", "lost"),
        ("failed", "killed by SIGKILL: by hand, or by the system when memory ran out", "lost"),
        ("failed", "killed by SIGSEGV", "lost"),
        ("failed", "left with exit status 3 before it had finished", "lost"),
        ("failed", "its process was lost too often: the actor died", "lost"),
        ("failed", "OSError: [Errno 28] No space left on device", "error"),
        ("failed", "val/avg_acc was not logged; these were: train/loss", "error"),
        ("broken", "not finite: train/loss = nan", "non_finite"),
        ("broken", "exploding: gradient norm 1e9, more than 100 times the median", "exploding"),
        ("broken", "dead: the gradient norm was 0 all epoch", "dead"),
        ("finished", "ran all its 3 epochs", None),
        ("outranked", "3 of 3 at the rung of 1 epochs", None),
        ("rejected", "constraint lr < 1", None),
    ],
)
def test_a_verdict_tells_the_kind(verdict, reason, kind):
    assert classify(verdict, reason) == kind
    assert kind is None or kind in FAILURES


def test_the_kind_stands_with_the_verdict(make_ledger, open_study, report_epoch, run_trial):
    ledger = make_ledger("search: {trials: 4}\nstopping: {scheduler: fifo}\n")
    study = open_study(ledger)
    study.propose()
    study.fail(0, {"error": "OutOfMemoryError: CUDA out of memory"})
    study.propose()
    report_epoch(study, 1, 1, float("nan"))
    run_trial(study, [0.5])
    verdicts = [trial.user_attrs["verdict"] for trial in ledger.study().get_trials()]
    assert [verdict.get("failure") for verdict in verdicts] == ["oom", "non_finite", None]


def test_the_system_s_count_of_kills_tells_a_kill_for_memory_from_one_by_hand(tmp_path, monkeypatch):
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 12\noom_kill 3\n")
    assert memory_kills(counters) == 3
    assert memory_kills(tmp_path / "none") is None
    process = TrialProcess(threads=1)
    for before, now, words in ((3, 4, "out of memory"), (3, 3, "by hand, as"), (None, 3, "by hand, or by the system")):
        process._kills = before
        monkeypatch.setattr("sweeps.process.memory_kills", lambda now=now: now)
        assert words in process._describe(-9)
    assert process._describe(-11) == "killed by SIGSEGV"
    assert process._describe(3) == "left with exit status 3 before it had finished"
