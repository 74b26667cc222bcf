"""What TensorBoard's HParams tab shows of a sweep: of each trial that has ended, what was searched and what it came to.

One small event file a trial, beside what the trial itself has logged, and one for the whole sweep that names the columns. Both
are made anew from the study, so that a driver that was killed has nothing to make up for but the missing ones.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lhtx.files import write_atomically
from sweeps.attributes import rejected
from sweeps.constraints import SIZE
from sweeps.hydra_overrides import Scalar
from sweeps.ledger import Ledger, TrialFiles
from sweeps.outcomes import best_epoch
from sweeps.recorded import recorded

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Value
    from optuna.trial import FrozenTrial
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    from sweeps.schema import SearchSpace

PREFIX = "objective/"
"""Stands before an objective's name, so that its one value is no point of the curve that the trial has logged."""
NAME = "events.out.tfevents.{seconds}.hparams"
"""TensorBoard reads the files of a run in the order of their names, which begin with the seconds since 1970."""
GLOB = "events.out.tfevents.*.hparams"


def write(ledger: Ledger, space: SearchSpace, trials: Iterable[FrozenTrial]) -> None:
    """Write what is missing. Args: trials: those to look at.

    Raises:
        OSError: a file cannot be written.
    """
    columns = ledger.hparams_directory
    if not any(columns.glob(GLOB)):
        columns.mkdir(exist_ok=True)
        write_atomically(columns / NAME.format(seconds=0), _events([(_columns(space), 0.0)], 0))
    for trial in trials:
        if trial.state.is_finished() and "overrides" in trial.user_attrs and not rejected(trial):
            _write(ledger.trial(trial.number), space, trial)


def _write(files: TrialFiles, space: SearchSpace, trial: FrozenTrial) -> None:
    directory = files.directory / "tensorboard"
    if any(directory.glob(GLOB)) or not files.directory.is_dir():
        return
    directory.mkdir(exist_ok=True)
    ended = trial.datetime_complete.timestamp()
    write_atomically(directory / NAME.format(seconds=math.ceil(ended)), session(space, trial))


def session(space: SearchSpace, trial: FrozenTrial) -> bytes:
    """The events of a trial that has ended: the parameters that it ran with, and its objectives at its best epoch, if it
    came to any."""
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

    begun, ended = trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()
    start = SessionStartInfo(start_time_secs=begun)
    for key, value in trial.params.items():
        start.hparams[key].CopyFrom(_value(value))
    failed = trial.state.name == "FAIL"
    end = SessionEndInfo(status=api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS, end_time_secs=ended)
    values = recorded(trial)
    epoch = best_epoch(values, space.modes[0])
    scalars = [] if epoch is None else list(zip(space.objectives, values[epoch], strict=True))
    summaries = [
        (_summary(metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start)), begun),
        *((_scalar(f"{PREFIX}{objective.metric}", value), ended) for objective, value in scalars),
        (_summary(metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end)), ended),
    ]
    return _events(summaries, epoch or 0)


def _plain(value: Scalar) -> bool | float | str:
    """As TensorBoard takes it: null, for which it has no value, as text."""
    return "null" if value is None else value


def _value(value: Scalar) -> Value:
    from google.protobuf.struct_pb2 import Value

    plain = _plain(value)
    if isinstance(plain, bool):
        return Value(bool_value=plain)
    return Value(string_value=plain) if isinstance(plain, str) else Value(number_value=plain)


def _summary(tag: str, data: HParamsPluginData) -> Summary:
    """The tab's own data. (TensorBoard's functions for it import TensorFlow.)"""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata

    data.version = metadata.PLUGIN_DATA_VERSION
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=metadata.NULL_TENSOR)])


def _scalar(tag: str, value: float) -> Summary:
    """As `add_scalar` writes it."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=tag, simple_value=value)])


def _columns(space: SearchSpace) -> Summary:
    """The parameters, conditional ones too, and the objectives."""
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    types = {"bool_value": api_pb2.DATA_TYPE_BOOL, "number_value": api_pb2.DATA_TYPE_FLOAT64}
    parameters = []
    for key, parameter in space.parameters.items():
        info = api_pb2.HParamInfo(name=key, display_name=key, type=api_pb2.DATA_TYPE_FLOAT64)
        found = parameter.distribution.to_optuna()
        if hasattr(found, "choices"):
            kinds = {_value(value).WhichOneof("kind") for value in found.choices}
            info.type = types.get(next(iter(kinds)) if len(kinds) == 1 else "", api_pb2.DATA_TYPE_STRING)
            if len(kinds) == 1:  # options of several types have no common list
                info.domain_discrete.extend(_plain(value) for value in found.choices)
        else:
            info.domain_interval.min_value, info.domain_interval.max_value = found.low, found.high
        parameters.append(info)
    metrics = [
        api_pb2.MetricInfo(
            name=api_pb2.MetricName(tag=f"{PREFIX}{objective.metric}"),
            display_name=objective.metric,
            description="the network's size" if objective.metric == SIZE else f"{objective.mode}, at the trial's best epoch",
        )
        for objective in space.objectives
    ]
    experiment = api_pb2.Experiment(hparam_infos=parameters, metric_infos=metrics, description=space.description)
    return _summary(metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))


def _events(summaries: Iterable[tuple[Summary, float]], step: int) -> bytes:
    """An event file. Args: summaries: each with its time in seconds since 1970."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    writer = RecordWriter(content)
    writer.write(Event(wall_time=0.0, file_version="brain.Event:2").SerializeToString())
    for summary, when in summaries:
        writer.write(Event(wall_time=when, step=step, summary=summary).SerializeToString())
    return content.getvalue()
