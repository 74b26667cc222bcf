"""TensorBoard's HParams tab lists the trials of a sweep with what was searched and what they came to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from lhtx.tensorboard import command
from sweeps import continuation
from sweeps.housekeeping import beside
from sweeps.hparams import GLOB, write
from sweeps.notify import Notification

SPACE = """search: {trials: 3, seed: 3, sampler: random}
stopping: {scheduler: asha, grace_epochs: 1, reduction_factor: 2, guard: {mode: "off"}}
"""
MIXED = """
description: Values of every kind.
trial: [experiment=vimh]
objective: [{metric: val/avg_acc, mode: max}, {metric: parameters, mode: min}]
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}
  data.batch_size: [32, 64]
  model: [vimh_mlp, vimh_cnn]
  data.drop_last: [true, false]
  +extras.any: [1, word, null]
"""


def events(path):
    found = [event for event in EventFileLoader(str(path)).Load() if event.HasField("summary")]
    return {value.tag: (value, event.step) for event in found for value in event.summary.value}


def data(value):
    return plugin_data_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)


@pytest.fixture
def swept(make_ledger, open_study, report_epoch, console):
    """A sweep of three trials: finished, pruned, failed."""
    ledger = make_ledger(SPACE)
    study = open_study(ledger)
    with beside(study, console, Notification()):
        for number, values in enumerate(([0.5, 0.75], [0.25], [])):
            assert study.propose()["number"] == number
            study.begin(number)
            for epoch, value in enumerate(values, start=1):
                report_epoch(study, number, epoch, value, max_epochs=2)
            if number == 0:
                study.finish(number, {"metrics": {}, "seconds": 2.0})
        study.fail(2, {"error": "it broke"})
    return ledger


def test_each_trial_tells_its_parameters_its_value_and_how_it_ended(swept):
    trials = swept.study().get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL"]
    for trial, value, status in zip(trials, (0.75, 0.25, None), ("SUCCESS", "SUCCESS", "FAILURE"), strict=True):
        files = list((swept.trial(trial.number).directory / "tensorboard").glob(GLOB))
        assert len(files) == 1
        said = events(files[0])
        start = data(said["_hparams_/session_start_info"][0]).session_start_info
        assert {key: cell.number_value for key, cell in start.hparams.items()} == trial.params
        assert start.start_time_secs == pytest.approx(trial.datetime_start.timestamp())
        end = data(said["_hparams_/session_end_info"][0]).session_end_info
        assert end.status == getattr(api_pb2, f"STATUS_{status}")
        if value is None:
            assert "objective/val/avg_acc" not in said
        else:
            scalar, step = said["objective/val/avg_acc"]
            assert (scalar.tensor.float_val[0], step) == (value, 2 if value == 0.75 else 1)


def test_columns_have_the_types_and_the_domains_of_the_parameters(make_space, make_ledger):
    ledger, space = make_ledger(), make_space(MIXED, base=False)
    write(ledger, space, [])
    files = list(ledger.hparams_directory.glob(GLOB))
    experiment = data(events(files[0])["_hparams_/experiment"][0]).experiment
    columns = {info.name: info for info in experiment.hparam_infos}
    assert list(columns) == list(space.parameters)
    assert columns["model.optimizer.lr"].domain_interval.max_value == 0.1
    assert list(columns["data.batch_size"].domain_discrete) == [32.0, 64.0]
    assert list(columns["model"].domain_discrete) == ["vimh_mlp", "vimh_cnn"]
    kinds = [columns[key].type for key in ("data.batch_size", "model", "data.drop_last", "+extras.any")]
    names = ("FLOAT64", "STRING", "BOOL", "STRING")
    assert kinds == [getattr(api_pb2, f"DATA_TYPE_{name}") for name in names]
    assert [metric.name.tag for metric in experiment.metric_infos] == ["objective/val/avg_acc", "objective/parameters"]
    assert [metric.display_name for metric in experiment.metric_infos] == ["val/avg_acc", "parameters"]


def test_what_a_killed_driver_has_not_written_the_next_one_does_and_nothing_is_written_twice(swept, open_study, console):
    one = next((swept.trial(1).directory / "tensorboard").glob(GLOB))
    other = next((swept.trial(0).directory / "tensorboard").glob(GLOB))
    content, before = one.read_bytes(), other.stat().st_mtime_ns
    one.unlink()
    with beside(open_study(swept), console, Notification()):
        pass
    assert one.read_bytes() == content
    assert other.stat().st_mtime_ns == before


def test_a_trial_that_continues_another_does_not_take_its_row(ended, checkpoint):
    (ended.trial(0).directory / "tensorboard" / "events.out.tfevents.1.hparams").write_bytes(b"row")
    continuation.copy(ended.trial(0), ended.trial(7))
    assert [path.name for path in (ended.trial(7).directory / "tensorboard").iterdir()] == ["events"]


@pytest.mark.slow
def test_a_real_tensorboard_lists_the_trials_with_their_values(swept):
    line = command(swept.directory, 0)
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert line[0] == sys.executable
    try:
        url = next(found[0] for text in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+/", text)))

        def ask(what, **body):
            content = json.dumps({"experimentName": "", **body}).encode()
            request = urllib.request.Request(f"{url}data/plugin/hparams/{what}", content, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=240) as answer:
                return json.load(answer)

        def shown():
            """The columns of parameters and of metrics, and by trial what stands in them."""
            statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
            asked = {"allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 10}
            groups = ask("session_groups", **asked).get("sessionGroups", [])
            rows = {
                group["name"]: (
                    group["hparams"],
                    {metric["name"]["tag"]: metric["value"] for metric in group.get("metricValues", [])},
                )
                for group in groups
            }
            experiment = ask("experiment")
            columns = [column["name"] for column in experiment["hparamInfos"]]
            return columns, [metric["displayName"] for metric in experiment["metricInfos"]], rows

        parameters = [trial.params for trial in swept.study().get_trials()]
        values = [{"objective/val/avg_acc": 0.75}, {"objective/val/avg_acc": 0.25}, {}]
        names = [f"trials/{number:04d}/tensorboard" for number in range(3)]
        rows = dict(zip(names, zip(parameters, values, strict=True), strict=True))
        expected, found = (["model.optimizer.lr"], ["val/avg_acc"], rows), None
        deadline = time.monotonic() + 240
        while found != expected and time.monotonic() < deadline:  # it reads the files one after another, meanwhile
            time.sleep(0.5)
            with contextlib.suppress(urllib.error.HTTPError, KeyError):
                found = shown()
        assert found == expected
    finally:
        process.terminate()
        process.communicate()
