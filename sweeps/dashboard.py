"""Optuna Dashboard over the storage of a sweep's study. It shows; nothing that it is sent changes the study."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from rich.console import Console

from sweeps.errors import SweepError
from sweeps.ledger import Ledger

PORT = 8080
HOST = "127.0.0.1"
_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """A line a request is nothing that anybody reads."""


def read_only(application: _Application) -> _Application:
    """`application`, which answers whoever asks for something and refuses whoever sends something: the dashboard could
    rename and delete studies, and end trials by hand, under a driver that takes the study for its own."""

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in {"GET", "HEAD"}:
            return application(environment, start)
        start("405 Method Not Allowed", [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
        return [b'{"reason": "This dashboard shows the study and changes nothing."}']

    return answer


def dashboard_server(ledger: Ledger, host: str = HOST, port: int | None = None) -> WSGIServer:
    """A server of the dashboard that has not begun to answer; `server_port` is its port.

    Args: port: 0 is any that is free; None is `PORT` if that is free, else any that is.

    Raises:
        LedgerError: there is no such sweep, or its study cannot be read.
        SweepError: it cannot listen there.
    """
    from optuna_dashboard import wsgi

    logging.getLogger("optuna_dashboard").setLevel(logging.ERROR)
    ledger.study()  # what is missing or damaged is told here, not in the browser
    application = read_only(wsgi(ledger.storage))
    if port is None:
        try:
            return make_server(host, PORT, application, _Server, _Quiet)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _unable(host, PORT, error) from error
            port = 0
    try:
        return make_server(host, port, application, _Server, _Quiet)
    except (OSError, OverflowError) as error:
        raise _unable(host, port, error) from error


def _unable(host: str, port: int, error: Exception) -> SweepError:
    why = error.strerror if isinstance(error, OSError) else "expected 0 (any that is free) to 65535"
    if isinstance(error, socket.gaierror):
        return SweepError(f"There is no address {host!r} to listen on ({why}): expected one of this machine, such as {HOST}.")
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        return SweepError(f"{host} is no address of this machine: expected one, such as {HOST}.")
    return SweepError(f"The dashboard cannot listen on {host}, port {port} ({why}). Without --port it takes a free one.")


def show_dashboard(ledger: Ledger, console: Console, host: str = HOST, port: int | None = None) -> None:
    """Show the dashboard until Ctrl-C; see `dashboard_server`."""
    ended = threading.Event()
    with dashboard_server(ledger, host, port) as server:
        where = f"http://{host}:{server.server_port}/dashboard/studies/{ledger.study()._study_id}"
        # Ctrl-C is noted: an exception out of nowhere can get lost in a finalizer.
        before = signal.signal(signal.SIGINT, lambda number, frame: ended.set())
        try:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            console.print(f"{ledger.name}: {where} (Ctrl-C ends it)", soft_wrap=True)
            ended.wait()
            server.shutdown()
        finally:
            signal.signal(signal.SIGINT, before)
    console.print("")
