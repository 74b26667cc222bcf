"""A value of a wrong type is refused by its key, before anything is built from it."""

import pytest

from lhtx.argument_types import check_types
from lhtx.compose import build_task, compose, configure, describe
from lhtx.errors import ConfigError
from lhtx.train import train


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.max_epochs=abc", "trainer.max_epochs is 'abc'; expected a whole number"),
        ("trainer.check_val_every_n_epoch=x", "trainer.check_val_every_n_epoch is 'x'; expected a whole number, null"),
        ("trainer.limit_train_batches=abc", "trainer.limit_train_batches is 'abc'; expected a number, null"),
        ("trainer.deterministic=warm", "trainer.deterministic is 'warm'; expected true or false, warn, null"),
        ("trainer.precision=17", "trainer.precision is 17; expected 64, 32, 16"),
        ("model.optimizer.lr=abc", "model.optimizer.lr is 'abc'; expected a number"),
        ("model.compile=yes", "model.compile is 'yes'; expected true or false"),
        ("model.net.fc_hidden=8.5", "model.net.fc_hidden is 8.5; expected a whole number"),
        ("data.batch_size=true", "data.batch_size is True; expected a whole number"),
    ],
)
def test_a_value_of_another_type_is_refused_with_key_and_value(quiet, tmp_path, override, words):
    with pytest.raises(ConfigError) as error:
        train(compose(quiet("run", override)))
    assert words in str(error.value)
    with pytest.raises(ConfigError) as error:
        describe(quiet("run", override))
    assert words.partition(";")[0] in str(error.value)


@pytest.mark.parametrize("override", ["extras.print_config=maybe", "extras.enforce_tags=1", "train=yes", "test=null"])
def test_a_switch_is_true_or_false(override):
    with pytest.raises(ConfigError, match=rf"{override.partition('=')[0]} is .*; expected true or false"):
        compose([override])


@pytest.mark.parametrize(
    "accepted",
    [
        {"max_epochs": 3, "limit_train_batches": 0.5, "limit_val_batches": 2, "precision": "16-mixed", "devices": "auto"},
        {"max_epochs": None, "deterministic": "warn", "fast_dev_run": True, "gradient_clip_val": 1},
        {"no_such_argument": "x"},  # the class itself refuses it, with those that it takes
    ],
)
def test_what_a_class_takes_is_left_alone(accepted):
    check_types({"_target_": "lightning.Trainer", **accepted}, "trainer")
    check_types({"_target_": "nowhere.Trainer", **accepted}, "trainer")


@pytest.mark.parametrize("trainer", ["cpu", "gpu", "mps", "ddp", "ddp_sim"])
def test_the_project_s_own_configs_are_of_their_types(trainer):
    cfg = configure(compose(["data=digits", "model=digits_cnn", f"trainer={trainer}"]))
    check_types(dict(cfg.trainer), "trainer")
    build_task(cfg)
