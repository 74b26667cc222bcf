"""Each loss is handed the target and the output that it declares."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lhtx.errors import ConfigError
from lhtx.losses import (
    CrossEntropy,
    DirectRegression,
    IndexRegression,
    NormalizedRegression,
    Ordinal,
    QuantizedRegression,
    SoftTarget,
    WeightedCrossEntropy,
    expectation,
    ordinal,
    weighted_cross_entropy,
)
from lhtx.targets import soft_targets
from lhtx.tasks.heads import parse_heads
from lhtx.tasks.objective import Objective, build_losses, require_soft_losses

INDEX, VALUE = torch.tensor([0, 5, 11]), torch.tensor([0.03, 0.5, 0.96])


@pytest.fixture
def note(heads):
    return parse_heads(heads)[0]


@pytest.fixture
def logits():
    return torch.randn(3, 12, generator=torch.Generator().manual_seed(0))


def objective(head, loss, width=0.0, weight=1.0, shape="gaussian", **options):
    return Objective(head, loss(head.spec.classes, head.range, **options), weight, width, shape)


def test_cross_entropy_gets_the_index_at_width_zero_and_a_distribution_above(note, logits):
    loss, prediction = objective(note, CrossEntropy)(logits, INDEX, VALUE)
    assert torch.equal(loss, F.cross_entropy(logits, INDEX))
    assert torch.equal(prediction, logits.argmax(dim=1))
    for shape in ("gaussian", "triangular"):
        soft, prediction = objective(note, CrossEntropy, width=1.5, shape=shape)(logits, INDEX, VALUE)
        assert torch.equal(soft, F.cross_entropy(logits, soft_targets(INDEX, 12, 1.5, shape)))
        assert torch.equal(prediction, logits.argmax(dim=1))


@pytest.mark.parametrize("width", [0.0, 1.5])
def test_the_divergence_always_gets_a_distribution(note, logits, width):
    loss, _ = objective(note, SoftTarget, width=width)(logits, INDEX, VALUE)
    p = soft_targets(INDEX, 12, width).double()
    expected = (torch.special.xlogy(p, p) - p * logits.double().log_softmax(dim=1)).sum(dim=1).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_losses_of_the_index_and_their_readouts(note, logits):
    loss, prediction = objective(note, Ordinal, alpha=0.3)(logits, INDEX, VALUE)
    assert torch.equal(loss, ordinal(logits, INDEX, 11.0, 0.3))
    assert torch.equal(prediction, expectation(logits))
    loss, prediction = objective(note, WeightedCrossEntropy)(logits, INDEX, VALUE)
    assert torch.equal(loss, weighted_cross_entropy(logits, INDEX))
    assert torch.equal(prediction, logits.argmax(dim=1))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (QuantizedRegression, lambda unit: (unit * 11 - INDEX).abs().mean()),
        (NormalizedRegression, lambda unit: 11 * (unit - VALUE).square().mean()),
        (DirectRegression, lambda unit: 11 * (unit - VALUE).abs().mean()),
        (IndexRegression, lambda unit: (unit - VALUE).abs().mean()),
    ],
)
def test_regression_losses_see_the_output_in_the_targets_unit(note, loss, expected):
    unit = torch.tensor([0.1, 0.4, 0.99])
    value, prediction = objective(note, loss)(unit[:, None], INDEX, VALUE)
    assert float(value) == pytest.approx(float(expected(unit)), rel=1e-5)
    torch.testing.assert_close(prediction, unit * 11)


@pytest.mark.parametrize("loss", [CrossEntropy, SoftTarget, WeightedCrossEntropy])
def test_a_row_that_is_not_a_number_is_no_class(note, logits, loss):
    logits[1, 4] = torch.nan
    _, prediction = objective(note, loss)(logits, INDEX, VALUE)
    assert prediction.tolist() == [int(logits[0].argmax()), -1, int(logits[2].argmax())]


def test_sample_weights_are_those_of_a_mean_weighted_by_class(note, logits):
    weights = [1.0 + position for position in range(12)]
    hard = objective(note, CrossEntropy, class_weights=weights)
    assert hard.sample_weights(INDEX).tolist() == [1.0, 6.0, 12.0]
    assert objective(note, CrossEntropy, width=1.0, class_weights=weights).sample_weights(INDEX) is None
    for loss in (CrossEntropy, SoftTarget, Ordinal, NormalizedRegression):
        assert objective(note, loss).sample_weights(INDEX) is None


def test_the_weight_multiplies(note, logits):
    assert objective(note, CrossEntropy, weight=0.25)(logits, INDEX, VALUE)[0] == pytest.approx(
        0.25 * F.cross_entropy(logits, INDEX)
    )


def test_half_precision_outputs_are_read_in_single(heads):
    decay = parse_heads(heads)[1]
    index, value = torch.tensor([0, 255]), torch.tensor([0.0, 1.0])
    output = torch.tensor([[0.0], [0.99609375]], dtype=torch.bfloat16)
    _, position = objective(decay, NormalizedRegression)(output, index, value)
    assert position.dtype == torch.float32
    assert float(position[1]) == pytest.approx(255 * 0.99609375)


def test_the_table_of_soft_targets_moves_with_the_module_and_is_not_saved(note):
    soft = objective(note, CrossEntropy, width=1.0)
    assert soft.state_dict() == {}
    assert soft.to("meta").soft_targets.is_meta
    assert objective(note, CrossEntropy).soft_targets is None


def test_losses_come_from_one_factory_or_from_a_mapping(heads):
    parsed = parse_heads(heads)
    losses = build_losses(partial(Ordinal, alpha=0.5), parsed, "classification")
    assert [(loss.classes, loss.parameter_range, loss.alpha) for loss in losses] == [(12, 11.0, 0.5), (256, 2.5, 0.5)]
    mapped = build_losses({"decay": Ordinal, "note": CrossEntropy}, parsed, "classification")
    assert [type(loss) for loss in mapped] == [CrossEntropy, Ordinal]


def test_class_weights_of_a_mapping_go_to_their_heads(heads):
    parsed = parse_heads(heads)
    weights = [1.0 + position for position in range(12)]
    losses = build_losses(partial(CrossEntropy, class_weights={"note": weights}), parsed, "classification")
    assert losses[0].class_weights.tolist() == weights
    assert losses[1].class_weights is None
    assert list(Objective(parsed[0], losses[0], 1.0, 0.0, "gaussian").state_dict()) == ["loss.class_weights"]


@pytest.mark.parametrize(
    ("loss", "kind", "message"),
    [
        (
            partial(CrossEntropy, class_weights=[1, 2, 3]),
            "classification",
            "the loss of head 'note': CrossEntropy: class_weights has 3 numbers and the head has 12 classes",
        ),
        (
            partial(CrossEntropy, class_weights={"notes": [1]}),
            "classification",
            "loss.class_weights names 'notes', which is no head. The heads are: note, decay",
        ),
        (
            partial(CrossEntropy, label_smooting=0.1),
            "classification",
            "the loss of head 'note', CrossEntropy, has no option 'label_smooting'. Did you mean label_smoothing?",
        ),
        (
            partial(SoftTarget, label_smoothing=0.1),
            "classification",
            "SoftTarget, has no option 'label_smoothing'. Accepted: no",
        ),
        (nn.CrossEntropyLoss, "classification", "is CrossEntropyLoss, which is no lhtx.losses.Loss. Losses there are: CrossE"),
        ({"note": CrossEntropy, "decay": None}, "classification", "head 'decay' has no loss. Losses there are: CrossEntropy"),
        (
            {"note": CrossEntropy, "velocity": CrossEntropy},
            "classification",
            "loss names 'velocity', which is no head. The heads are: note, decay",
        ),
        ({"note": CrossEntropy}, "classification", "loss has no entry for decay; give every head one"),
        (
            NormalizedRegression,
            "classification",
            "'note', NormalizedRegression, needs scalar and the network has head_kind='classification', which gives logits. "
            "Losses that fit: CrossEntropy, SoftTarget, WeightedCrossEntropy, Ordinal",
        ),
        (
            {"note": NormalizedRegression, "decay": CrossEntropy},
            "regression",
            "'decay', CrossEntropy, needs logits and the network has head_kind='regression'.*Losses that fit: Quantized",
        ),
        (CrossEntropy(12, 11.0), "classification", "is a CrossEntropy, already built; expected a class .*_partial_: true"),
        ("CrossEntropy", "classification", "is a str, already built; expected a class"),
        (lambda **_: nn.MSELoss(), "classification", "built a MSELoss and no lhtx.losses.Loss. Losses there are: CrossEntropy"),
    ],
)
def test_losses_that_do_not_fit_are_refused(heads, loss, kind, message):
    with pytest.raises(ConfigError, match=message):
        build_losses(loss, parse_heads(heads), kind)


def test_a_target_width_that_would_change_nothing_is_refused(heads):
    parsed = parse_heads(heads)
    hard = build_losses(Ordinal, parsed, "classification")
    mixed = build_losses({"note": CrossEntropy, "decay": Ordinal}, parsed, "classification")
    require_soft_losses(hard, 0.0)
    require_soft_losses(mixed, 1.0)
    with pytest.raises(ConfigError, match=r"target_width is 1.0 and the loss is Ordinal, .*choose one of CrossEntropy, SoftT"):
        require_soft_losses(hard, 1.0)
