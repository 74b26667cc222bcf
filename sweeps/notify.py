"""Tells somebody that a sweep has ended: a command is run, a webhook is called. What becomes of that changes nothing.

It knows how the sweep stands, and neither trials nor files. A webhook's URL is a secret: messages name its scheme and host.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from sweeps.outputs import shown_url

if TYPE_CHECKING:
    from sweeps.outputs import Notify, NotifyEvent

COMMAND_SECONDS = 60.0
"""How long a command may take before it is killed."""
WEBHOOK_SECONDS = 10.0
"""How long a webhook may take to answer."""
ATTEMPTS = 3
PAUSE_SECONDS = 1.0
"""Before the second attempt; twice as long before the third."""


@dataclass(frozen=True)
class Ending:
    """How a run of a sweep ended."""

    name: str
    state: NotifyEvent
    directory: str
    metric: str
    best_trial: int | None
    best_value: float | None
    ended: dict[str, int]
    """Verdict → trials."""
    message: str
    """In a sentence."""

    def as_json(self) -> str:
        return json.dumps(
            {
                "sweep": self.name,
                "state": self.state,
                "directory": self.directory,
                "metric": self.metric,
                "best_trial": self.best_trial,
                "best_value": self.best_value,
                "ended": self.ended,
                "message": self.message,
            }
        )

    def as_environment(self) -> dict[str, str]:
        return {
            "SWEEP_NAME": self.name,
            "SWEEP_STATE": self.state,
            "SWEEP_DIRECTORY": self.directory,
            "SWEEP_BEST_TRIAL": "" if self.best_trial is None else str(self.best_trial),
            "SWEEP_BEST_VALUE": "" if self.best_value is None else repr(self.best_value),
        }


class Notification:
    """What there is to tell when this process lets go of the sweep; nothing, if no trial was to be run."""

    def __init__(self) -> None:
        self._notify: Notify | None = None
        self._ending: Callable[[NotifyEvent, str], Ending] | None = None
        self._said: tuple[NotifyEvent, str] | None = None

    def begin(self, notify: Notify | None, ending: Callable[[NotifyEvent, str], Ending]) -> None:
        """Trials are run from now on. Args: ending: the sweep as it stands when it is called, with a state and a message."""
        self._notify, self._ending = notify, ending

    def end(self, state: NotifyEvent, message: str) -> None:
        """The run has ended so."""
        self._said = state, message

    def told(self, error: BaseException | None) -> tuple[Notify, Ending] | None:
        """What is to be told to whom. Args: error: by which the driver ended, if it did."""
        if self._notify is None or self._ending is None:
            return None
        if error is not None:
            self._said = "failed", f"{type(error).__name__}: {error}"
        if self._said is None or self._said[0] not in self._notify.on:
            return None
        return self._notify, self._ending(*self._said)


@contextmanager
def notifying(console: Console) -> Iterator[Notification]:
    """Put round all that a driver does: whoever is told finds the sweep free. Ctrl-C ends the telling, and nothing else."""
    notification, error = Notification(), None
    try:
        yield notification
    except BaseException as raised:
        error = raised
        raise
    finally:
        if told := notification.told(error):
            try:
                tell(*told, console)
            except KeyboardInterrupt:
                _say(console, "stopped by Ctrl-C")


def tell(notify: Notify, ending: Ending, console: Console, pause: Callable[[float], None] = time.sleep) -> None:
    """Run the command and call the webhook; what goes wrong is said.

    Args: pause: waits so many seconds.
    """
    if notify.command is not None and (problem := run_command(notify.arguments, ending)):
        _say(console, problem)
    if notify.webhook is not None and (problem := call_webhook(notify.webhook, ending, pause)):
        _say(console, problem)


def missing(notify: Notify | None) -> str | None:
    """That the program of its command cannot be run here, in words; None if it can."""
    if notify is None or notify.command is None or shutil.which(notify.arguments[0]):
        return None
    return f"{notify.arguments[0]!r} is no program that can be run here: expected one on the PATH, or the path of an executable"


def _say(console: Console, problem: str) -> None:
    console.print(Text.assemble(("notify", "yellow"), f": {problem}"), soft_wrap=True)


def run_command(arguments: list[str], ending: Ending, seconds: float = COMMAND_SECONDS) -> str | None:
    """Run a command, without a shell; what went wrong. Args: seconds: after which it is killed."""
    environment = {**os.environ, **ending.as_environment()}
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return f"{arguments[0]} cannot be run: {error.strerror}"
    try:
        output, _ = process.communicate(ending.as_json().encode(), timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"{shlex.join(arguments)} was killed, as it took more than {seconds:g} s"
    except BaseException:
        _kill(process)
        raise
    if process.returncode == 0:
        return None
    last = output.decode(errors="replace").strip().splitlines()[-1:]
    return f"{shlex.join(arguments)} ended with exit status {process.returncode}{''.join(f': {line}' for line in last)}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, without what was to be told, and count as told."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def call_webhook(url: str, ending: Ending, pause: Callable[[float], None] = time.sleep) -> str | None:
    """POST the ending as JSON; what went wrong, at last. An answer that says that asking again is no use is believed."""
    request = urllib.request.Request(
        url, ending.as_json().encode(), {"Content-Type": "application/json", "User-Agent": "lhtx-sweeps"}, method="POST"
    )
    problem: Any = None
    opener = urllib.request.build_opener(_NoRedirect)
    for attempt in range(1, ATTEMPTS + 1):
        if attempt > 1:
            pause(PAUSE_SECONDS * 2 ** (attempt - 2))
        try:
            with opener.open(request, timeout=WEBHOOK_SECONDS):
                return None
        except urllib.error.HTTPError as error:
            problem = f"answered {error.code} {error.reason}"
            error.close()
            if error.code < 500 and error.code != 429:
                break
        except urllib.error.URLError as error:
            problem = f"cannot be reached: {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            problem = f"cannot be reached: {type(error).__name__}"
    return f"{shown_url(url)} {problem}"
