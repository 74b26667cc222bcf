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
    """One step is one message of the trial, or of the trials that train as one in its process: an epoch's reports, or an end.

    Tune reuses the actor, never the trials' process: each is a clean fork.
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
        self._process.end()  # writes the last checkpoints of the trials before
        if self._node:
            self._node.end()
        self._change: tuple[list[int], list[dict[str, Any]]] = ([], [])
        self._any = bool(config["group"])
        if self._any:
            self._process.start(*map(self._here, config["group"]), fused=config["fused"])

    def _here(self, assignment: dict[str, Any]) -> dict[str, Any]:
        return self._node.begin(assignment) if self._node else assignment

    def step(self) -> dict[str, Any]:
        (stopped, joining), self._change = self._change, ([], [])
        if stopped or joining:
            self._process.change(stopped, [self._here(assignment) for assignment in joining])
        # A group all of whose trials have ended may be lost before it has said so: there is nothing to start again.
        message = self._process.next() if self._any else {"kind": "over"}
        done = message["kind"] not in {"report", "group"}
        if self._node and done:
            self._process.end()
            self._node.end()
        elif self._node:
            left = [each["number"] for kind in ("finished", "unfit") for each in message.get(kind, ())]
            self._node.end([*stopped, *left])
            self._node.send()
        return {PAYLOAD: json.dumps(message), "done": done}

    def change(self, stop: list[int], join: list[dict[str, Any]]) -> None:
        """Say with the answer to the group's last message which trials end, and which ones join. That is the next step's
        doing: what goes wrong with it is told as that of the process is."""
        self._change = (stop, join)

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
