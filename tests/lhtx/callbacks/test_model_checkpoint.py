"""Checkpoints stand under the key that Lightning's own callback has, put together once."""

import pickle

from lightning.pytorch import callbacks

from lhtx.callbacks import ModelCheckpoint


def test_the_key_is_lightnings_and_is_made_once(monkeypatch):
    settings = {"monitor": "val/loss", "mode": "min", "save_top_k": 1}
    ours, theirs = ModelCheckpoint(**settings), callbacks.ModelCheckpoint(**settings)
    assert ours.state_key == theirs.state_key
    monkeypatch.setattr(callbacks.ModelCheckpoint, "_generate_state_key", None)  # asked again, it would fail
    assert ours.state_key == pickle.loads(pickle.dumps(ours)).state_key  # noqa: S301
