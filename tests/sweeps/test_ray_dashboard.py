"""Ray's dashboard is started only when it is asked for, and then on loopback alone."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from sweeps import ray_dashboard

SCRIPT = """
import io, socket, sys, time, urllib.request
from rich.console import Console
from sweeps import ray_cluster, ray_dashboard
from sweeps.space import load_space

taken = socket.socket()
taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    taken.bind(("127.0.0.1", 8265))
    taken.listen()
except OSError:
    pass  # somebody else has it: just as well
ray_dashboard.want(True)
console = Console(file=io.StringIO(), width=200)
with ray_cluster.connected(load_space("quickstart"), console):
    ray_dashboard.tell(console)
    said = console.file.getvalue().strip()
    import ray

    node = ray.nodes()[0]
    ports = [node["NodeManagerPort"], node["ObjectManagerPort"], int(ray.get_runtime_context().gcs_address.split(":")[1])]
    reached = [[socket.socket().connect_ex((host, port)) == 0 for port in ports] for host in ("127.0.0.1", "127.0.0.2")]
    print(node["NodeManagerAddress"], reached)
    with urllib.request.urlopen(said.rpartition(" ")[2], timeout=240) as answer:
        print(said, answer.status, b"<html" in answer.read().lower())
"""


def test_it_is_off_unless_asked_for(console):
    assert ray_dashboard.options() == {"include_dashboard": False}
    ray_dashboard.tell(console)
    assert console.file.getvalue() == ""
    try:
        ray_dashboard.want(True)
        assert ray_dashboard.options() == {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    finally:
        ray_dashboard.want(False)


@pytest.mark.slow
def test_it_answers_where_it_is_said_to_be_also_where_the_usual_port_is_taken():
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    heard, said = done.stdout.strip().splitlines()[-2:]
    # Who listens on every address of the machine is reached by any of 127.0.0.0/8.
    assert heard == f"127.0.0.1 {[[True] * 3, [False] * 3]}", "Ray's own ports are the loopback's too"
    assert said.startswith("Ray's dashboard: http://127.0.0.1:")
    assert not said.startswith("Ray's dashboard: http://127.0.0.1:8265 ")
    assert said.endswith(" 200 True")
