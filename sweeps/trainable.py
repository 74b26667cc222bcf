"""What Tune starts on a worker: an actor that keeps one process server warm and runs trial after trial on it.

The actor itself imports neither torch nor Lightning: it passes messages (`sweeps.process`).
"""

from __future__ import annotations

import json
from typing import Any

from ray import tune

from sweeps.process import TrialProcess
from sweeps.searcher import PAYLOAD


class TrialActor(tune.Trainable):
    """One step is one message of the trial: an epoch's report, or its end.

    Tune reuses the actor, never the trial's process: each trial is a clean fork.
    """

    def setup(self, config: dict[str, Any]) -> None:
        allotted = self.trial_resources.required_resources
        self._process = TrialProcess(int(allotted["CPU"]), bool(allotted.get("GPU")), int(allotted.get("memory", 0)) or None)
        self._process.start(_assignment(config))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._process.start(_assignment(new_config))
        return True

    def step(self) -> dict[str, Any]:
        message = self._process.next()
        return {PAYLOAD: json.dumps(message), "done": message["kind"] != "report"}

    def cleanup(self) -> None:
        self._process.close()


def _assignment(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("number", "overrides", "directory")}
