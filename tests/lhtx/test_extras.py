"""The conveniences: hidden warnings, tags that are asked for, the config as a tree."""

import io
import sys
import warnings

import pytest
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from lhtx.compose import compose
from lhtx.errors import ConfigError
from lhtx.extras import enforce_tags, quieten
from lhtx.train import train


def raised(*overrides: str) -> list[str]:
    """Which of some warnings come through with `overrides`."""
    texts = {
        "workers": "The 'train_dataloader' does not have many workers which may be a bottleneck. Consider increasing it",
        "pinned": "'pin_memory' argument is set as true but no accelerator is found",
        "suggested": "This DataLoader will create 8 worker processes in total. Our suggested max number of worker is 2",
        "own": "look at me",
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quieten(compose(list(overrides)))
        for text in texts.values():
            warnings.warn(text, stacklevel=1)
    return [name for name, text in texts.items() if text in {str(warning.message) for warning in caught}]


def test_advice_on_the_dataloader_is_hidden_and_can_be_shown():
    assert raised() == ["own"]
    assert raised("extras.ignore_dataloader_warnings=false") == ["workers", "pinned", "suggested", "own"]


def test_all_warnings_can_be_hidden():
    assert raised("extras.ignore_warnings=true") == []
    assert raised("extras.ignore_warnings=true", "extras.ignore_dataloader_warnings=false") == []


def test_what_a_run_hides_is_shown_again_after_it(quiet, recwarn):
    class Warn(Callback):
        def on_train_start(self, trainer, pl_module):
            warnings.warn("look at me", stacklevel=1)

    short = ("trainer.max_epochs=1", "test=false")
    train(compose(quiet("run", *short, "extras.ignore_warnings=true")), callbacks=[Warn()])
    assert not [warning for warning in recwarn if "look at me" in str(warning.message)]
    train(compose(quiet("again", *short)), callbacks=[Warn()])
    assert [warning for warning in recwarn if "look at me" in str(warning.message)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "tags"), [("vimh, first try ,\n", ["vimh", "first try"]), ("\n", ["dev"])])
def test_tags_are_asked_for_on_a_terminal(quiet, monkeypatch, tmp_path, capsys, answer, tags):
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    train(compose(quiet("run", "tags=[]", "trainer.max_epochs=1")))
    assert "tags of this run" in capsys.readouterr().out
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").tags == tags


@pytest.mark.parametrize("empty", ["tags=[]", "tags=null"])
def test_without_a_terminal_a_run_without_tags_is_refused(quiet, monkeypatch, tmp_path, empty):
    monkeypatch.setattr(sys, "stdin", io.StringIO("never read"))
    with pytest.raises(ConfigError, match=r"tags is empty, and extras\.enforce_tags wants some; set tags="):
        train(compose(quiet("run", empty)))
    assert not (tmp_path / "run").exists()
    enforce_tags(compose([empty, "extras.enforce_tags=false"]))


def test_tags_that_are_no_list_of_words_are_refused():
    for wrong in ("tags=vimh", "tags=[1,2]"):
        with pytest.raises(ConfigError, match=r"expected a list of words, such as tags=\[vimh,dev\]"):
            enforce_tags(compose([wrong]))


def test_the_config_is_printed_as_a_tree_and_written_beside_the_run(quiet, capsys, tmp_path):
    train(compose(quiet("run", "trainer.max_epochs=1", "extras.print_config=true")))
    printed = capsys.readouterr().out
    written = (tmp_path / "run" / "config_tree.txt").read_text()
    for text in (printed, written):
        lines = [line.strip("│├└─ ") for line in text.splitlines()]
        assert lines[0] == "config"
        order = ["task_name: train", "data", "dataset", "model", "trainer", "callbacks", "paths", "extras"]
        assert [lines.index(key) for key in order] == sorted(lines.index(key) for key in order)
        assert "conv1_channels: 4" in lines
        assert "${" not in text


def test_the_config_is_not_printed_unasked(quiet, capsys, tmp_path):
    train(compose(quiet("run", "trainer.max_epochs=1")))
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run" / "config_tree.txt").exists()
