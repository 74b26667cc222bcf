"""The connection to a cluster's Jobs port, and every way in which it can fail as one message. It knows nothing of sweeps."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sweeps.errors import SweepError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_SECONDS = 5.0
TOKEN_FILE = Path("~/.ray/auth_token")
HOW_TO_SET = (
    "Put the cluster's token into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH (on the head node, "
    "`ray get-auth-token` prints it), and leave RAY_AUTH_MODE unset or set it to token."
)


class ClusterError(SweepError):
    """A cluster that cannot be reached, does not let us in, or does not do what was asked of it."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the Jobs port at `address`, such as http://127.0.0.1:8265.

    Raises:
        ClusterError: it is no such address; nobody answers; what answers is no Ray, or another Ray; or it wants a token.
    """
    host, port = _parsed(address)
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"{address}: nobody answers ({error.strerror or error}). Is the cluster up, and is this the port of its dashboard "
            f"(8265)? It listens on the head node's loopback: a tunnel brings it here, as `ssh -L {port}:127.0.0.1:8265 HEAD`."
        ) from error
    _enable_tokens()
    import ray
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of every file that is not shipped
    # Ray would take the cluster from these rather than from what was asked for.
    hidden = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
    try:
        with told(address):
            client = JobSubmissionClient(address)
    finally:
        os.environ.update(hidden)
    theirs, ours = str(client._server_ray_version), ray.__version__
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise ClusterError(
            f"{address} runs Ray {theirs}, and this project Ray {ours}: a cluster needs what requirements.lock names. Install "
            f"ray=={ours} on its nodes, or use an image that has it."
        )
    return client


def _parsed(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 8265)
    except ValueError:
        host = None
    if host is not None and "@" in parts.netloc:  # it would be printed, and kept with what is fetched
        raise ClusterError(f"--address: {parts.scheme}://{host} with a user or password before it. {HOW_TO_SET}")
    if host is None or parts.scheme not in {"http", "https"} or parts.path not in {"", "/"}:
        raise ClusterError(
            f"--address {address!r}: expected the address of a Ray dashboard, such as http://127.0.0.1:8265; that of its GCS "
            "(port 6379) and ray://… (port 10001) are others."
        )
    return host, port


def _enable_tokens() -> None:
    """Let Ray use the token, where there is one: with the mode unset it would send none, and be refused."""
    there = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if there or TOKEN_FILE.expanduser().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def told(address: str) -> Iterator[None]:
    """Turns what Ray's client raises into one message.

    Raises:
        ClusterError: with what to do about it.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        wrong = "403" in str(error) or "failed" in str(error).split(":", 1)[0]
        what = "does not accept this token" if wrong else "wants a token"
        mode = os.environ.get("RAY_AUTH_MODE")
        note = f" RAY_AUTH_MODE is {mode!r} now." if mode not in {None, "token"} else ""
        raise ClusterError(f"{address} {what}. {HOW_TO_SET}{note}") from error
    except (ConnectionError, requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
        raise ClusterError(f"{address}: the connection failed: {_first_line(error)}") from error
    except (requests.exceptions.RequestException, KeyError) as error:  # no JSON, or not Ray's
        raise ClusterError(
            f"{address} answers, but is no Ray dashboard ({_first_line(error)}). Its port is 8265 if nobody has changed it."
        ) from error
    except RuntimeError as error:
        if re.search(r"(code|returned) 404\b", str(error)):
            raise ClusterError(
                f"{address} answers, but is no Ray dashboard ({_first_line(error)}). Its port is 8265 if nobody has changed it."
            ) from error
        raise ClusterError(f"{address}: {_first_line(error)}") from error


def _first_line(error: Exception) -> Any:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
