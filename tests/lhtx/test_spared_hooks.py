"""Lightning is spared the hooks that a callback leaves empty, and calls all others."""

from lightning.pytorch.callbacks import Callback

from lhtx.compose import compose
from lhtx.runs import BATCH_HOOKS
from lhtx.train import train


class Counting(Callback):
    """Counts the batches that it is told of; leaves every other hook of a batch empty."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *arguments: object) -> None:
        self.batches += 1


def test_hooks_of_a_batch_are_called_where_there_is_something_to_call(quiet):
    counting = Counting()
    train(compose(quiet("run", "trainer.limit_train_batches=2", "data.batch_size=16")), [counting])
    assert counting.batches == 2 * 2
    assert {hook for hook in BATCH_HOOKS if getattr(counting, hook) is not None} == {"on_train_batch_end"}
    assert all(callable(getattr(Callback, hook)) for hook in BATCH_HOOKS), "these are hooks of Lightning"
