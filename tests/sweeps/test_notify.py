"""Somebody is told that a sweep has ended: by a command, by a webhook, and whatever becomes of that, the sweep has ended so."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from sweeps import runner
from sweeps.edits import Edit
from sweeps.errors import LedgerError, SpaceError
from sweeps.housekeeping import check
from sweeps.notify import Ending, call_webhook, missing, notifying, run_command, tell
from sweeps.outputs import Notify
from sweeps.study import End

ENDING = Ending("digits", "complete", "/runs/digits", "val/acc", 3, 0.25, {"finished": 4}, "4 of 4 trials have ended")
FIFO = "search: {trials: 2, seed: 3, sampler: random}\nstopping: {scheduler: fifo}\n"


@pytest.fixture
def server():
    """A server that answers with the statuses in `answers`, the last one again and again, and keeps what it is sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def do_POST(self):
            self.server.heard.append((self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
            answers = self.server.answers
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    found = HTTPServer(("127.0.0.1", 0), Handler)
    found.heard, found.answers, found.url = [], [200], f"http://127.0.0.1:{found.server_port}/SECRET?key=SECRET"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_a_command_gets_the_ending_in_its_environment_and_on_its_input(tmp_path):
    script = tmp_path / "tell.py"
    script.write_text(
        "import json, os, sys\nnames = [name for name in os.environ if name.startswith('SWEEP_')]\n"
        "json.dump([{name: os.environ[name] for name in names}, json.load(sys.stdin), sys.argv[1:]], open('told.json', 'w'))\n"
    )
    notify = Notify(command=f"sh -c 'cd \"$0\" && exec \"$@\"' {tmp_path} {sys.executable} {script} 'two words' $HOME")
    assert run_command(notify.arguments, ENDING) is None
    environment, said, arguments = json.loads((tmp_path / "told.json").read_text())
    assert environment == {
        "SWEEP_NAME": "digits",
        "SWEEP_STATE": "complete",
        "SWEEP_DIRECTORY": "/runs/digits",
        "SWEEP_BEST_TRIAL": "3",
        "SWEEP_BEST_VALUE": "0.25",
    }
    assert arguments == ["two words", "$HOME"]  # no shell has looked at it
    assert said == {
        "sweep": "digits",
        "state": "complete",
        "directory": "/runs/digits",
        "metric": "val/acc",
        "best_trial": 3,
        "best_value": 0.25,
        "ended": {"finished": 4},
        "message": "4 of 4 trials have ended",
    }


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("no-such-program --loud", "no-such-program cannot be run: No such file or directory"),
        ("sh -c 'echo one; echo it is broken >&2; exit 3'", "ended with exit status 3: it is broken"),
        ("true", None),
        ("sh -c 'head -c 0'", None),  # it may leave its input unread
    ],
)
def test_a_command_that_fails_is_told(command, problem, console):
    tell(Notify(command=command), ENDING, console)
    said = console.file.getvalue()
    assert said == "" if problem is None else (said.startswith("notify: ") and problem in said)


def test_a_program_that_is_not_there_is_refused_before_anything_is_made(make_space, make_ledger):
    space = make_space("notify: {command: /no/such/cmd --loud}\n")
    with pytest.raises(SpaceError, match=r"test\.yaml:7: notify\.command: '/no/such/cmd' is no program that can be run here"):
        check(space, make_ledger(name="other"))
    assert missing(Notify(command="true")) is None


def test_a_command_that_hangs_is_killed_with_all_that_it_has_started(tmp_path):
    start = time.monotonic()
    problem = run_command(["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait"], ENDING, seconds=2)
    assert problem.endswith("was killed, as it took more than 2 s")
    ps = ["ps", "-o", "stat=", (tmp_path / "pid").read_text().strip()]
    while subprocess.run(ps, capture_output=True, text=True).stdout[:1] not in {"", "Z"}:  # a killed process takes its time
        assert time.monotonic() - start < 120
    assert time.monotonic() - start < 120


def test_ctrl_c_ends_the_telling_and_nothing_else(console, tmp_path):
    def interrupt():
        while not (tmp_path / "runs").exists():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def told():
        with notifying(console) as notification:
            notification.begin(Notify(command=f"sh -c 'touch {tmp_path}/runs; sleep 600'"), lambda state, message: ENDING)
            notification.end("complete", "done")
            threading.Thread(target=interrupt, daemon=True).start()
            return 7

    start = time.monotonic()
    assert told() == 7
    assert time.monotonic() - start < 120
    assert console.file.getvalue() == "notify: stopped by Ctrl-C\n"


def test_a_webhook_is_posted_json_and_asked_again_after_errors_of_its_own(server, console):
    pauses = []
    server.answers[:] = [500, 503, 204]
    assert call_webhook(server.url, ENDING, pauses.append) is None
    assert pauses == [1.0, 2.0]
    assert [kind for kind, _ in server.heard] == ["application/json"] * 3
    assert json.loads(server.heard[-1][1])["best_value"] == 0.25
    server.answers[:] = [404]
    tell(Notify(webhook=server.url), ENDING, console, pauses.append)
    server.answers[:] = [302]  # followed, it would be a GET of another page
    tell(Notify(webhook=server.url), ENDING, console, pauses.append)
    assert len(server.heard) == 5
    assert console.file.getvalue() == "".join(
        f"notify: http://127.0.0.1 answered {answer}\n" for answer in ("404 Not Found", "302 Found")
    )
    assert "SECRET" not in console.file.getvalue()


def test_a_webhook_that_nobody_answers_is_given_up():
    pauses = []
    problem = call_webhook("http://127.0.0.1:9/SECRET", ENDING, pauses.append)
    assert problem.startswith("http://127.0.0.1 cannot be reached: ")
    assert (len(pauses), "SECRET" in problem) == (2, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "tells nobody: expected a command, a webhook or both"),
        ("{webhook: 'http://example.org/SECRET'}", "would send what it says in the clear to example.org"),
        ("{webhook: 'ftp://example.org/SECRET'}", "is no URL of the form https://host/path"),
        ("{webhook: 'https://example.org/SECRETä'}", "holds letters that no URL has"),
        ("{webhook: 'https://ada:SECRET@example.org/hook'}", "holds a user or password before its host"),
        ("{command: ''}", "is empty: expected a program and its arguments"),
        ('{command: "echo \'it"}', "No closing quotation"),
        ("{command: x, on: [finished]}", "Accepted: complete, failed, interrupted, budget"),
        ("{command: x, on: []}", "at least 1 item"),
        ("mail", "a mapping with some of command, webhook, on is expected"),
    ],
)
def test_what_is_wrong_with_it_is_said_before_anything_runs(make_space, text, message):
    with pytest.raises(SpaceError) as refused:
        make_space(f"notify: {text}\n")
    assert message in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_a_changed_webhook_is_shown_without_its_path():
    edit = Edit(("notify", "webhook"), "https://a.example/SECRET", "https://b.example/SECRET")
    assert str(edit) == "notify.webhook: https://a.example/… → https://b.example/…"
    assert edit.allowed


@pytest.mark.parametrize(
    ("ends", "on", "expected"),
    [
        ("all", "complete", ("complete", "2 of 2 trials have ended")),
        ("none", "failed", ("failed", "2 of 2 trials have ended, none of them with a value")),
        ("interrupted", "interrupted", ("interrupted", "1 of 2 trials have ended")),
        ("interrupted", "complete", None),
        ("budget", "budget", ("budget", "1 of 2 trials have ended")),
        ("crash", "failed", ("failed", "RuntimeError: it broke")),
        ("full", "failed", ("failed", "No space left")),
    ],
)
def test_each_end_of_a_run_is_told_to_whom_it_concerns(
    ends, on, expected, make_ledger, run_trial, report_epoch, console, monkeypatch, server
):
    ledger = make_ledger(f"{FIFO}notify: {{webhook: '{server.url}', on: [{on}]}}\n")

    def work(study, console, interruption):
        if ends == "crash":
            raise RuntimeError("it broke")
        if ends == "full":
            raise OSError("No space left on device")
        for _ in range(2 if ends in {"all", "none"} else 1):
            if ends == "none":
                number = study.propose()["number"]
                study.begin(number)
                study.fail(number, {"error": f"broken {number}"})
            else:
                run_trial(study, [0.5])
        return {"interrupted": End.INTERRUPTED, "budget": End.BUDGET}.get(ends)

    def free(*arguments):
        assert ledger.holder() is None  # whoever is told finds the sweep free
        return original(*arguments)

    from sweeps import notify

    original = notify.tell
    monkeypatch.setattr(notify, "tell", free)
    monkeypatch.setattr(runner, "_work", work)
    error = {"crash": RuntimeError, "full": LedgerError}.get(ends)
    if error:
        with pytest.raises(error):
            runner.resume("test", ledger.root, console)
    else:
        runner.resume("test", ledger.root, console)
    told = [json.loads(content) for _, content in server.heard]
    assert [each["state"] for each in told] == ([expected[0]] if expected else [])
    if expected:
        assert expected[1] in told[0]["message"]
        assert told[0]["directory"] == str(ledger.directory.resolve())


def test_a_sweep_that_has_nothing_left_to_do_tells_nobody(ended, console, server):
    ended.space_file.write_text(ended.space_file.read_text() + f"notify: {{webhook: '{server.url}'}}\n")
    assert runner.resume("test", ended.root, console) == 0
    assert server.heard == []
