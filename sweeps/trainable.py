"""What Tune starts on a worker: an actor that keeps one process server warm and runs trial after trial on it.

The actor itself imports neither torch nor Lightning: it passes messages (`sweeps.process`), and on a node that does not see
the sweep's directory the trial's files (`sweeps.node`), which arrive before the message that follows them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ray import tune

from sweeps.process import TrialProcess

if TYPE_CHECKING:
    from sweeps.transfer import Transfer


PAYLOAD = "payload"
"""The key of a Tune result under which a trial's message stands, as JSON: Tune flattens and copies what it can see into."""


class TrialActor(tune.Trainable):
    """One step is one message of the trial: an epoch's report, or its end.

    Tune reuses the actor, never the trial's process: each trial is a clean fork.
    """

    def setup(self, config: dict[str, Any], transfer: Transfer | None = None) -> None:
        self._node = transfer.node() if transfer else None
        allotted = self.trial_resources.required_resources
        memory = int(allotted.get("memory", 0)) or None
        self._process = TrialProcess(int(allotted["CPU"]), bool(allotted.get("GPU")), memory, config["server"])
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        assignment = {name: config[name] for name in ("number", "overrides", "directory")}
        if self._node:
            self._process.end()  # writes the last checkpoint of the trial before
            self._node.end()
            assignment = self._node.begin(assignment)
        self._process.start(assignment)

    def step(self) -> dict[str, Any]:
        message = self._process.next()
        done = message["kind"] != "report"
        if self._node and done:
            self._process.end()
            self._node.end()
        elif self._node:
            self._node.send()
        return {PAYLOAD: json.dumps(message), "done": done}

    def leave(self) -> None:
        """End a trial that was told to wait at once, and not only when the actor is wanted again: its last checkpoint is, by
        others."""
        self._process.end()
        if self._node:
            self._node.end()

    def cleanup(self) -> None:
        self._process.close()
        if self._node:
            self._node.close()
