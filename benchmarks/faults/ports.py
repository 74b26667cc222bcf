"""Ports for servers that are started some time after their ports were chosen."""

from __future__ import annotations

import secrets
import socket
from contextlib import closing
from itertools import islice
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 20_000
"""Ray gives its workers ports below."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that the system gives to nobody who asks for any port at all. Two that choose at once
    come to different ones, in all likelihood: each looks from a place of its own on."""
    ports = _assignable()
    start = secrets.randbelow(len(ports))  # not by `random`, which two runs may have seeded alike
    found = list(islice(filter(_free, [*ports[start:], *ports[:start]]), count))
    if len(found) < count:
        raise OSError(f"not even {count} of {len(ports)} ports from {LOWEST} on are free")
    return found


def _assignable() -> list[int]:
    """The ports that the system gives to nobody by itself; all of them, where it is set to give any."""
    first, last = map(int, EPHEMERAL.read_text().split()) if EPHEMERAL.exists() else (49_152, 65_535)
    ports = range(LOWEST, 65_536)
    return [port for port in ports if not first <= port <= last] or list(ports)


def _free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
