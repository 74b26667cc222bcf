"""TensorBoard starts on this machine's loopback over a directory that has something to show, and not otherwise."""

import os
import sys

import pytest

from lhtx.errors import ConfigError
from lhtx.tensorboard import command, main


def test_it_listens_on_the_loopback_only(tmp_path):
    events = tmp_path / "runs" / "one" / "tensorboard" / "events.out.tfevents.1.host.2.0"
    events.parent.mkdir(parents=True)
    events.touch()
    line = command(tmp_path, 6006)
    assert line[:3] == [sys.executable, "-m", "tensorboard.main"]
    assert line[3:] == ["--logdir", str(tmp_path), "--host", "127.0.0.1", "--port", "6006"]


def test_the_command_becomes_tensorboard_over_logs(tmp_path, monkeypatch):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events.out.tfevents.1").touch()
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execv", lambda program, line: started.append((program, line)))
    main(["--port", "0"])
    ((program, line),) = started
    assert program == line[0] == sys.executable
    assert line[3:5] == ["--logdir", "logs"]
    assert line[-1] == "0"


def test_where_there_is_nothing_to_show_it_says_what_was_expected(tmp_path, capsys):
    (tmp_path / "metrics.csv").touch()
    with pytest.raises(ConfigError, match=r"holds nothing for TensorBoard: no file events\.out\.tfevents.*logger=tensorboard"):
        command(tmp_path, 6006)
    with pytest.raises(ConfigError, match=r"there is no directory .*nowhere; expected one with runs in it"):
        command(tmp_path / "nowhere", 6006)
    with pytest.raises(ConfigError, match="--port is 99999"):
        command(tmp_path, 99999)
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: there is no directory")
