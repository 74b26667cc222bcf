"""The summary before training: every part with its parameters, and the total."""

import re

from lhtx.compose import compose, describe
from lhtx.train import train


def table(text: str) -> dict[str, int]:
    """Module → parameters, as printed."""
    return {m[1]: int(m[2].replace(",", "")) for m in re.finditer(r"^(\S+) .*?([\d,]+) *$", text, flags=re.MULTILINE)}


def test_the_heads_and_the_total_are_listed_with_whole_numbers(quiet, capsys):
    overrides = quiet("run", "trainer.max_epochs=1", "trainer.enable_model_summary=true")
    train(compose(overrides))
    found = table(capsys.readouterr().out)
    assert found["total"] == describe(overrides).parameters == found["net"]
    assert found["net.heads.note_number_head"] == found["net.heads.log10_decay_time_head"] == 16 * 24 + 24
    assert sum(count for name, count in found.items() if name.count(".") == 1) == found["total"]
    assert not [name for name in found if "metrics" in name]


def test_the_depth_is_an_option_and_frozen_parameters_are_told(quiet, capsys):
    from lightning.pytorch.callbacks import Callback

    class Freeze(Callback):
        def setup(self, trainer, pl_module, stage):
            pl_module.net.conv1.requires_grad_(False)

    options = (
        "trainer.max_epochs=1",
        "trainer.enable_model_summary=true",
        "callbacks=model_summary",
        "callbacks.model_summary.max_depth=0",
    )
    cfg = compose(quiet("run", *options))
    train(cfg, callbacks=[Freeze()])
    text = capsys.readouterr().out
    assert list(table(text)) == ["total"]
    total = describe(quiet("run")).parameters
    assert f"{total - 40:,} trainable" in text
