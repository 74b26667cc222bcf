"""What cannot train as one is refused by its key or by the network's name, before anything is trained or written."""

import copy
import sys
import types

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lhtx.compose import configure
from lhtx.errors import ConfigError
from lhtx.fused import FusedTrainer, can_fuse
from lhtx.fused.compatibility import differences
from lhtx.nets.heads import Heads

EARLY = {"_target_": "lhtx.callbacks.EarlyStopping", "monitor": "val/loss"}
TRAINER = [
    ("precision", "bf16-mixed", "32-true"),
    ("devices", 2, "1"),
    ("accumulate_grad_batches", 2, "1"),
    ("max_steps", 100, "-1"),
]
LBFGS = ["~model.optimizer", "+model.optimizer={_target_: torch.optim.LBFGS, _partial_: true}"]


REFUSED = [
    ({"data.batch_size": 32}, {}, "data.batch_size differs: 32, 64"),
    ({"trainer.limit_train_batches": 5}, {}, "trainer.limit_train_batches differs: 5, 10"),
    ({"model.net.lin1_size": 8}, {}, "model.net.lin1_size differs: 8, 12"),
    ({"model.net._target_": "lhtx.nets.SimpleDenseNet"}, {}, "model.net._target_ differs"),
    (
        {"callbacks.early": EARLY},
        {"callbacks.early": EARLY},
        "callbacks.early is a EarlyStopping, which needs a Trainer of its own",
    ),
    *(
        (2 * ({f"trainer.{key}": value},)) + (f"trainer.{key} is {value}; expected {expected}",)
        for key, value, expected in TRAINER
    ),
    (
        {"trainer.max_time": "00:01:00:00"},
        {"trainer.max_time": "00:01:00:00"},
        "trainer.max_time is 00:01:00:00; expected None",
    ),
    ({"trainer.plugins": "x"}, {"trainer.plugins": "x"}, "trainer.plugins is set, which is not looked at"),
    ({"model.compile": True}, {"model.compile": True}, "model.compile is true; expected false"),
    ({"restore.hyperparameters": "config"}, {}, "restore.hyperparameters is config"),
    ({"callbacks.best.save_top_k": 3}, {}, "callbacks.best (save_top_k): a group keeps one file"),
    ({"callbacks.gradient_statistics.histograms": True}, {}, "callbacks.gradient_statistics.histograms is true"),
]


def test_configs(digits):
    base = configure(digits("one"))

    def changed(changes):
        cfg = copy.deepcopy(base)
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value, force_add=True)
        return cfg

    for one, other, said in REFUSED:
        assert said in "; ".join(differences([changed(one), changed(other)]))


def test_what_may_differ(digits):
    more = ["seed=3", "model.optimizer.lr=0.1", "model.net.dropout=0.3", "data.target_width=2.0", "trainer.max_epochs=7"]
    assert can_fuse([digits("one"), digits("other", *more, "+model.loss.label_smoothing=0.1")]) == [
        "model.loss.label_smoothing differs: None, 0.1; networks that train as one share it"
    ]
    assert can_fuse([digits("one"), digits("other", *more)]) == []


def test_an_optimizer_without_a_kernel(digits):
    assert can_fuse([digits("one", *LBFGS)]) == ["model.optimizer: LBFGS is not among Adam, AdamW, SGD"]


class _Net(nn.Module):
    """What the networks below have in common."""

    auxiliary_input_size = 0

    def __init__(self, heads, slope: float = 1.0, mode: str = "a", **_):
        super().__init__()
        self.linear = nn.Linear(64, 8)
        self.heads = Heads(8, heads, "classification")
        self.slope, self.mode = slope, mode

    def forward(self, image):
        return self.heads(self.change(self.linear(image.flatten(1))))


class Item(_Net):
    def change(self, features):
        return features / features.abs().max().item()


class Branch(_Net):
    def change(self, features):
        return features if features.mean() > 0 else -features


class Random(_Net):
    def change(self, features):
        return features + torch.randn_like(features) if self.training else features


class Slope(_Net):
    def change(self, features):
        return nn.functional.leaky_relu(features, self.slope)


class Hidden(_Net):
    """Looks at its number in a way that nothing can follow."""

    def change(self, features):
        return features * (2.0 if self.slope else 1.0)


@pytest.fixture
def made(digits, monkeypatch):
    """Makes the config of a run of one of the networks above."""
    module = types.ModuleType("made_networks")
    for kind in (Item, Branch, Random, Slope, Hidden):
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def config(kind: type, **options):
        given = [f"+model.net.{name}={value}" for name, value in options.items()]
        return digits(f"{kind.__name__}{len(options)}", f"model.net._target_=made_networks.{kind.__name__}", *given)

    return config


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (Item, [{}, {}], r"model.net, Item, does not run for several networks at once: .*\.item\(\)"),
        (Branch, [{}, {}], r"model.net, Branch, .* data-dependent control flow"),
        (Random, [{}, {}], r"model.net, Random, .* random operation"),
        (Slope, [{"slope": 0.1}, {"slope": 0.2}], r"Slope \(with another net\.slope each\), does not run"),
        (
            Hidden,
            [{"slope": 0.0}, {"slope": 0.5}],
            r"Hidden \(with another net\.slope each\), .* losses differ from those of each",
        ),
        (Slope, [{"mode": "a"}, {"mode": "b"}], r"model\.net\.mode differs: 'a', 'b'"),
    ],
)
def test_networks(made, kind, options, said):
    configs = [made(kind, **each) for each in options]
    with pytest.raises(ConfigError, match=f"these networks cannot train as one: .*{said}"):
        FusedTrainer(configs)


def test_a_network_that_joins_must_fit(digits):
    trainer = FusedTrainer([digits("one")])
    with pytest.raises(ConfigError, match=r"data\.batch_size differs: 64, 32"):
        trainer.add(digits("other", "data.batch_size=32"))
    assert trainer.add(digits("third", "model.optimizer.lr=0.1")) == 1
    assert trainer.fit().keys() == {0, 1}
