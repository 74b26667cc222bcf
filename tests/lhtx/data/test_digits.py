"""The digits of scikit-learn: the same as its own loader gives, read without importing it."""

import sys

import numpy as np
import pytest
import torch

from lhtx.data import DigitsDataModule, HeadSpec, digits
from lhtx.errors import ConfigError, DatasetError


def _ready(**options) -> DigitsDataModule:
    datamodule = DigitsDataModule(**options)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def test_the_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits  # slow to import, so here alone

    theirs, ours = load_digits(), _ready().train_dataloader().dataset[torch.arange(1797)]
    assert (np.rint(ours["image"][:, 0].numpy() * (16 / 255)) == theirs.images).all()
    assert (ours["image"].min(), ours["image"].max()) == (0, 255)
    assert (ours["index"][:, 0].numpy() == theirs.target).all()


def test_they_are_split_by_fractions_and_read_without_scikit_learn(monkeypatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    split = _ready().split
    assert (len(split.train), len(split.validation), len(split.test)) == (1258, 359, 180)
    assert "sklearn" not in sys.modules


def test_the_spec_has_one_head_of_ten_classes() -> None:
    spec = DigitsDataModule().spec
    assert (spec.name, spec.channels, spec.height, spec.width) == ("digits", 1, 8, 8)
    assert spec.heads == {"digit": HeadSpec(10, 0, 9, 1)}


def test_there_is_no_test_file() -> None:
    with pytest.raises(ConfigError, match=r"leaves none for test .*use_random_split=true where there is no test file"):
        _ready(use_random_split=False)


def test_a_missing_table_or_package_is_named(monkeypatch) -> None:
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="come with scikit-learn, and it is not installed"):
        _ready()
    monkeypatch.undo()
    monkeypatch.setattr(digits, "TABLE", digits.TABLE.with_name("gone.csv"))
    with pytest.raises(DatasetError, match=r"scikit-learn, and there is no .*gone.csv; install scikit-learn"):
        _ready()
