"""Lightning's checkpoint callback at a lower price a step."""

from functools import cached_property

from lightning.pytorch import callbacks


class ModelCheckpoint(callbacks.ModelCheckpoint):
    """`lightning.pytorch.callbacks.ModelCheckpoint`, whose key in a checkpoint is put together once.

    Lightning asks every callback for it at every hook, eight times a step, and this one's is a text of five settings: for
    two of them that is a twentieth of a small network's step.
    """

    @cached_property
    def state_key(self) -> str:
        """Under which name its state stands in a checkpoint: that of Lightning's own."""
        return super().state_key
