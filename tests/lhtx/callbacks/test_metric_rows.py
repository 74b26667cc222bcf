"""How metrics are arranged for people."""

import math

from lhtx.callbacks.metric_rows import gradients, line, rows


def test_several_heads_have_a_row_each_between_loss_and_average():
    metrics = {
        "train/avg_acc": 0.25,
        "train/loss": 2.0,
        "train/b_acc": 0.2,
        "train/a_acc": 0.3,
        "val/loss": 1.0,
        "val/a_acc": 0.5,
        "val/a_mae": 1.5,
        "val/acc_best": 0.75,
        "val/mae_best": 1.25,
        "train/other": 7.0,
        "grad/snr": 3.0,
    }
    found = rows(metrics)
    assert list(found) == ["loss", "b", "a", "average", "best", "other"]
    assert found["loss"] == {"train": {"": 2.0}, "val": {"": 1.0}}
    assert found["a"] == {"train": {"acc": 0.3}, "val": {"acc": 0.5, "mae": 1.5}}
    assert found["average"] == {"train": {"acc": 0.25}}
    assert found["best"] == {"val": {"acc": 0.75, "mae": 1.25}}


def test_one_head_is_not_repeated_under_other_names():
    metrics = dict.fromkeys(
        ("val/loss", "val/digit_acc", "val/acc", "val/avg_acc", "val/digit_mae", "val/mae", "val/avg_mae"), 1.0
    )
    assert list(rows(metrics)) == ["loss", "digit"]


def test_a_head_may_have_a_name_of_several_words_or_of_a_measure():
    assert list(rows({"val/log10_decay_time_acc": 1.0, "val/best_acc": 1.0})) == ["log10_decay_time", "best"]
    assert rows({"val/acc_acc": 1.0, "val/x_acc": 2.0})["acc"] == {"val": {"acc": 1.0}}


def test_gradients_are_shown_where_they_are_defined():
    assert gradients({"val/loss": 1.0}) == {}
    metrics = {"grad/cosine": math.nan, "grad/snr": 2.0, "grad/epoch_mean": 1.0, "grad/norm_min": 0.1, "grad/finite": 1.0}
    assert gradients(metrics) == {"epoch_mean": 1.0, "snr": 2.0}
    assert list(gradients(metrics | {"grad/finite": 0.0})) == ["epoch_mean", "snr", "finite"]


def test_a_line_holds_everything_split_by_split():
    metrics = {"val/x_acc": 0.5, "val/x_mae": 12345.678, "train/loss": 0.00012345, "grad/snr": 1.0}
    assert line(metrics) == "train: loss 0.0001234 | val: x acc 0.5  mae 1.235e+04 | grad: snr 1"
    assert line({}) == ""
