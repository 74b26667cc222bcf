"""Reading and writing checkpoints: atomically, as tensors and plain containers only, with a check that the weights belong
to the network at hand. Knows nothing of configs.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from lhtx.errors import CheckpointError
from lhtx.files import REMOVED, replacing

INPUT_CONSTANTS = "input_constants"
"""The key of a datamodule's state under which the constants of a network's inputs stand."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target and renames, so a killed run leaves the old checkpoint or the new one, never a part.

    (Lightning's own writer moves a file from the system's temporary directory, which copies where that is another disk.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves `checkpoint` at `path`, making its directory if need be; `storage_options` is not supported."""
        if storage_options is not None:
            raise TypeError(f"storage_options is not supported here, got {storage_options!r}")
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True) -> Any:
        """What was saved at `path`; `weights_only` is accepted for the interface's sake and is always true.

        A spawned process also hands its weights back through a file, a state dict by itself.
        """
        return _read(require_checkpoint(path), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the file at `path` if it exists."""
        Path(path).unlink(missing_ok=True)


def require_checkpoint(path: str | Path) -> Path:
    """`path`, which is a file. Raises CheckpointError with the checkpoints that there are instead."""
    path = Path(path)
    if path.is_dir():
        present = sorted(str(file) for pattern in ("*.ckpt", "checkpoints/*.ckpt") for file in path.glob(pattern))
        raise CheckpointError(f"{path} is a directory, expected a checkpoint. In it: {', '.join(present) or 'none'}")
    if not path.is_file():
        present = sorted(str(file) for file in path.parent.glob("*.ckpt"))
        note = path.parent / REMOVED
        why = f". {note.read_text().strip()}" if note.is_file() else ""
        raise CheckpointError(f"no checkpoint at {path}. In that directory: {', '.join(present) or 'none'}{why}")
    return path


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The checkpoint at `path`, read without running any code from it.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that holds more than tensors and plain containers.
    """
    path = require_checkpoint(path)
    checkpoint = _read(path, map_location)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f"{path} holds no 'state_dict', so it is no checkpoint of a training run")
    return checkpoint


def _read(path: Path, map_location: Any) -> Any:
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} cannot be read as a checkpoint of tensors and plain values: {reason}") from error


def check_weights(state: dict[str, torch.Tensor], module: nn.Module, path: str | Path) -> None:
    """Raises CheckpointError at the first tensor in which `state`, read from `path`, differs from `module`'s own."""
    own = module.state_dict()
    for name in [*own, *(name for name in state if name not in own)]:
        here, there = own.get(name), state.get(name)
        if here is None or there is None or here.shape != there.shape:
            raise CheckpointError(
                f"{path} belongs to another network. First difference: {name} is {_shape(there)} in the checkpoint "
                f"and {_shape(here)} in the configured {type(module).__name__}"
            )


def load_weights(module: nn.Module, path: str | Path, datamodule: LightningDataModule | None = None) -> None:
    """Puts the weights and buffers of the checkpoint at `path` into `module`, and its input constants into `datamodule`.

    Raises CheckpointError.
    """
    checkpoint = load_checkpoint(path)
    check_weights(checkpoint["state_dict"], module, path)
    module.load_state_dict(checkpoint["state_dict"])
    if datamodule is not None:
        load_input_constants(datamodule, checkpoint, path)


def load_input_constants(datamodule: LightningDataModule, checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Hands a datamodule the means and deviations that the network of `checkpoint`, read from `path`, was trained with.

    A datamodule that keeps none is left alone. One that does is told by a warning where the checkpoint has none.
    """
    if type(datamodule).load_state_dict is LightningDataModule.load_state_dict:
        return
    # Lightning keeps a datamodule's state under the name of its class, and the other dataset may be of another class.
    states = [state for state in checkpoint.values() if isinstance(state, Mapping) and INPUT_CONSTANTS in state]
    if states:
        datamodule.load_state_dict(states[0])
    else:
        rank_zero_warn(
            f"{path} does not say by which means and deviations its network's inputs were normalised (an older version wrote "
            "it): where they are measured, they are measured anew, which is right on the dataset of its run alone"
        )


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else f"of shape {tuple(tensor.shape)}"
