"""Losses against golden values and an independent float64 NumPy reference."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lhtx.errors import ConfigError
from lhtx.losses import (
    DISTANCES,
    LOSSES,
    CrossEntropy,
    DirectRegression,
    IndexRegression,
    Loss,
    NormalizedRegression,
    Ordinal,
    QuantizedRegression,
    SoftTarget,
    WeightedCrossEntropy,
    cross_entropy,
    direct_regression,
    elementwise_distance,
    expectation,
    index_regression,
    normalized_regression,
    ordinal,
    quantized_regression,
    soft_target,
    weighted_cross_entropy,
)
from lhtx.targets import gaussian_targets, log_triangular_targets, triangular_targets

ZEROS = torch.zeros(2, 5)
INDEX = torch.tensor([0, 3])
RANGE = 2.0


@pytest.mark.parametrize(
    ("value", "golden"),
    [
        (lambda: CrossEntropy(5, RANGE)(ZEROS, INDEX), math.log(5)),
        (lambda: CrossEntropy(5, RANGE)(ZEROS, gaussian_targets(INDEX, 5, 1.5)), math.log(5)),
        (lambda: SoftTarget(5, RANGE)(ZEROS, triangular_targets(INDEX, 5, 2)), 0.443292),
        (lambda: SoftTarget(5, RANGE)(ZEROS, gaussian_targets(INDEX, 5, 1.0, support=2)), 0.553580),
        (lambda: SoftTarget(5, RANGE)(ZEROS, log_triangular_targets(INDEX, 5, 2)), 0.611037),
        (lambda: Ordinal(5, RANGE)(ZEROS, INDEX), 0.910944),
        (lambda: WeightedCrossEntropy(5, RANGE)(ZEROS, INDEX), 6.909438),
        (lambda: QuantizedRegression(5, RANGE)(torch.tensor([1.0, 9.0]), INDEX), 0.5),
    ],
    ids=["cross_entropy", "soft", "triangular", "gaussian", "log_triangular", "ordinal", "weighted", "quantized"],
)
def test_golden_values(value, golden):
    assert float(value()) == pytest.approx(golden, abs=1e-6)


def reference_distance(error: np.ndarray, distance: str, delta: float) -> np.ndarray:
    size = np.abs(error)
    if distance == "l1":
        return size
    if distance == "l2":
        return size**2
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = 3 * torch.randn(16, 9, generator=generator, dtype=torch.float64)
    return {
        "logits": logits,
        "index": torch.randint(0, 9, (16,), generator=generator),
        "distribution": torch.rand(16, 9, generator=generator, dtype=torch.float64).softmax(dim=1),
        "scalar": torch.rand(16, generator=generator, dtype=torch.float64),
        "unit": torch.rand(16, generator=generator, dtype=torch.float64),
        "vector": torch.rand(16, 3, generator=generator, dtype=torch.float64),
        "units": torch.rand(16, 3, generator=generator, dtype=torch.float64),
    }


def test_classification_losses_against_numpy(batch):
    p, index = softmax(batch["logits"].numpy()), batch["index"].numpy()
    hard = -np.log(p[np.arange(16), index]).mean()
    soft = batch["distribution"].numpy()
    offset = np.arange(9) - index[:, None]
    penalty = np.where(offset == 0, 0, 1 + offset**2) * p
    assert float(cross_entropy(batch["logits"], batch["index"])) == pytest.approx(hard, rel=1e-12)
    assert float(cross_entropy(batch["logits"], batch["distribution"])) == pytest.approx(
        -(soft * np.log(p)).sum(axis=1).mean(), rel=1e-12
    )
    assert float(soft_target(batch["logits"], batch["distribution"])) == pytest.approx(
        (soft * np.log(soft / p)).sum(axis=1).mean(), rel=1e-12
    )
    assert float(weighted_cross_entropy(batch["logits"], batch["index"])) == pytest.approx(
        hard + penalty.sum(axis=1).mean(), rel=1e-12
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_distance_losses_against_numpy(batch, distance):
    delta, span = 0.3, 7.5
    p, index = softmax(batch["logits"].numpy()), batch["index"].numpy()
    expected = (p * np.arange(9)).sum(axis=1)
    hard = -np.log(p[np.arange(16), index]).mean()
    scalar, unit = batch["scalar"].numpy(), batch["unit"].numpy()
    steps = scalar * 12 - 2  # some are outside 0 … 8
    vector = batch["vector"].numpy() - batch["units"].numpy()
    np.testing.assert_allclose(expectation(batch["logits"]).numpy(), expected, rtol=1e-12)
    assert float(ordinal(batch["logits"], batch["index"], span, 0.25, distance, delta)) == pytest.approx(
        reference_distance(expected - index, distance, delta).mean() * span / 8 + 0.25 * hard, rel=1e-12
    )
    assert float(quantized_regression(torch.tensor(steps), batch["index"], 9, span, distance, delta)) == pytest.approx(
        reference_distance(steps.clip(0, 8) - index, distance, delta).mean() * span / 8, rel=1e-12
    )
    assert float(normalized_regression(batch["scalar"], batch["unit"], span, distance, delta)) == pytest.approx(
        reference_distance(scalar - unit, distance, delta).mean() * span, rel=1e-12
    )
    assert float(direct_regression(batch["scalar"] * span, batch["unit"] * span, distance, delta)) == pytest.approx(
        reference_distance((scalar - unit) * span, distance, delta).mean(), rel=1e-12
    )
    assert float(index_regression(batch["vector"], batch["units"], distance, delta)) == pytest.approx(
        reference_distance(vector, distance, delta).sum(axis=1).mean(), rel=1e-12
    )


def test_modules_hand_their_options_on(batch):
    logits, index, scalar, unit = (batch[key] for key in ("logits", "index", "scalar", "unit"))
    options = {"distance": "huber", "huber_delta": 0.2}
    pairs = [
        (Ordinal(9, 7.5, alpha=0.7, **options)(logits, index), ordinal(logits, index, 7.5, 0.7, "huber", 0.2)),
        (
            QuantizedRegression(9, 7.5, **options)(scalar * 8, index),
            quantized_regression(scalar * 8, index, 9, 7.5, "huber", 0.2),
        ),
        (NormalizedRegression(9, 7.5)(scalar, unit), (scalar - unit).square().mean() * 7.5),
        (DirectRegression(9, 7.5, **options)(scalar, unit), direct_regression(scalar, unit, "huber", 0.2)),
        (WeightedCrossEntropy(9, 7.5)(logits, index), weighted_cross_entropy(logits, index)),
    ]
    for module, function in pairs:
        assert float(module) == float(function)


@pytest.fixture
def class_weights() -> torch.Tensor:
    return torch.linspace(0.5, 2.5, 9, dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_and_label_smoothing_against_numpy(batch, class_weights, smoothing):
    w, index = class_weights.numpy(), batch["index"].numpy()
    p, soft = softmax(batch["logits"].numpy()), batch["distribution"].numpy()
    offset = np.arange(9) - index[:, None]
    penalty = (np.where(offset == 0, 0, 1 + offset**2) * p).sum(axis=1)
    steps = np.abs((p * np.arange(9)).sum(axis=1) - index)

    def smooth(target):
        return -((1 - smoothing) * target + smoothing / 9) @ np.diag(w) * np.log(p)

    hard = smooth(np.eye(9)[index]).sum() / w[index].sum()
    arguments = batch["logits"], batch["index"]
    assert float(cross_entropy(*arguments, class_weights, smoothing)) == pytest.approx(hard, rel=1e-12)
    assert float(cross_entropy(batch["logits"], batch["distribution"], class_weights, smoothing)) == pytest.approx(
        smooth(soft).sum() / 16, rel=1e-12
    )
    assert float(weighted_cross_entropy(*arguments, class_weights, smoothing)) == pytest.approx(
        hard + np.average(penalty, weights=w[index]), rel=1e-12
    )
    assert float(ordinal(*arguments, 7.5, 0.25, class_weights=class_weights, label_smoothing=smoothing)) == pytest.approx(
        np.average(steps, weights=w[index]) * 7.5 / 8 + 0.25 * hard, rel=1e-12
    )


WEIGHABLE = [CrossEntropy, WeightedCrossEntropy, Ordinal]


@pytest.mark.parametrize("loss", WEIGHABLE)
def test_equal_class_weights_change_nothing_and_options_reach_the_function(loss, batch):
    arguments = batch["logits"].float(), batch["index"]
    plain = float(loss(9, 7.5)(*arguments))
    assert float(loss(9, 7.5, class_weights=[3.0] * 9)(*arguments)) == pytest.approx(plain, rel=1e-5)
    weights = list(range(1, 10))
    changed = {float(loss(9, 7.5, **o)(*arguments)) for o in ({"class_weights": weights}, {"label_smoothing": 0.3})}
    assert len(changed | {plain}) == 3
    assert float(CrossEntropy(9, 7.5, weights, 0.3)(*arguments)) == pytest.approx(
        float(F.cross_entropy(*arguments, weight=torch.tensor(weights).float(), label_smoothing=0.3)), rel=1e-6
    )


@pytest.mark.parametrize("loss", WEIGHABLE)
def test_class_weights_are_saved_and_move_with_the_module(loss, batch):
    module = loss(9, 7.5, class_weights=list(range(1, 10)))
    assert module.state_dict()["class_weights"].tolist() == list(range(1, 10))
    assert loss(9, 7.5).state_dict() == {}
    other = loss(9, 7.5, class_weights=[1.0] * 9)
    other.load_state_dict(module.state_dict())
    logits, index = batch["logits"].float(), batch["index"]
    assert float(other(logits, index)) == float(module(logits, index))
    assert module.to(torch.bfloat16).class_weights.dtype == torch.bfloat16
    assert module(logits, index).dtype == torch.float32  # logits are single precision whatever the network's
    assert module.to("meta")(logits.to("meta"), index.to("meta")).is_meta
    with torch.device("meta"):
        assert loss(9, 7.5, class_weights=[1.0] * 9).class_weights.is_meta


def test_the_loss_of_a_vector_is_the_sum_of_its_parameters_losses(batch):
    loss = IndexRegression(9, 7.5, distance="l2")
    single = sum(float(loss(batch["vector"][:, p], batch["units"][:, p])) for p in range(3))
    assert single == pytest.approx(float(index_regression(batch["vector"], batch["units"], "l2")), rel=1e-12)


def test_kl_and_cross_entropy_differ_by_the_entropy_alone(batch):
    logits, p = batch["logits"].requires_grad_(), batch["distribution"]
    entropy = torch.special.entr(p).sum(dim=1).mean()
    torch.testing.assert_close((cross_entropy(logits, p) - soft_target(logits, p)).detach(), entropy)
    (of_cross_entropy,) = torch.autograd.grad(cross_entropy(logits, p), logits)
    (of_divergence,) = torch.autograd.grad(soft_target(logits, p), logits)
    torch.testing.assert_close(of_cross_entropy, of_divergence)


def test_a_perfect_prediction_costs_nothing():
    sure = 1e4 * torch.eye(5)[INDEX]
    assert float(cross_entropy(sure, INDEX)) == 0
    assert float(ordinal(sure, INDEX, RANGE)) == 0
    assert float(weighted_cross_entropy(sure, INDEX)) == 0
    p = gaussian_targets(INDEX, 5, 1.0)
    assert float(soft_target(p.log(), p)) == pytest.approx(0, abs=1e-7)
    assert float(quantized_regression(INDEX.float(), INDEX, 5, RANGE)) == 0


def test_every_loss_declares_its_target_and_its_output():
    declared = {loss.__name__: (loss.target, loss.output, loss.readout, loss.accepts_soft) for loss in LOSSES}
    assert declared == {
        "CrossEntropy": ("index", "logits", "argmax", True),
        "SoftTarget": ("distribution", "logits", "argmax", True),
        "WeightedCrossEntropy": ("index", "logits", "argmax", False),
        "Ordinal": ("index", "logits", "expectation", False),
        "QuantizedRegression": ("index", "scalar", "expectation", False),
        "NormalizedRegression": ("unit", "scalar", "expectation", False),
        "DirectRegression": ("value", "scalar", "expectation", False),
        "IndexRegression": ("unit", "scalar", "expectation", False),
    }
    assert set(LOSSES) == {loss for loss in _subclasses(Loss) if not loss.__name__.startswith("_")}


def _subclasses(cls: type) -> set[type]:
    return {deeper for direct in cls.__subclasses__() for deeper in {direct, *_subclasses(direct)}}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CrossEntropy(1, 2.0), "CrossEntropy needs 2 classes or more, and the head has 1"),
        (lambda: Ordinal(5, 2.0, distance="l3"), "Ordinal: unknown distance 'l3'. Accepted: l1, l2, huber"),
        (lambda: DirectRegression(5, 2.0, huber_delta=0), "DirectRegression: huber_delta is 0; expected a number above 0"),
        (lambda: Ordinal(5, 2.0, alpha=-1), "Ordinal: alpha is -1; expected 0 or more"),
        (lambda: CrossEntropy(5, 2.0, [1, 2, 3]), "CrossEntropy: class_weights has 3 numbers and the head has 5 classes"),
        (lambda: Ordinal(2, 2.0, class_weights=[1, 0]), r"Ordinal: class_weights\[1\] is 0; expected a finite number above 0"),
        (lambda: CrossEntropy(2, 2.0, [math.nan, 1]), r"class_weights\[0\] is nan; expected a finite number above 0"),
        (lambda: CrossEntropy(2, 2.0, "12"), "class_weights is '12'; expected a list of 2 numbers, one a class"),
        (lambda: WeightedCrossEntropy(5, 2.0, label_smoothing=1.5), "label_smoothing is 1.5; expected a number from 0 to 1"),
        (lambda: elementwise_distance(ZEROS, ZEROS, "cosine"), "unknown distance 'cosine'. Accepted: l1, l2, huber"),
    ],
)
def test_senseless_options_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.output == "logits"])
def test_half_precision_logits_of_256_classes_keep_their_order(loss):
    """The class index 255 is not lost where outputs are bfloat16."""
    output = 50 * torch.eye(256, dtype=torch.bfloat16)[[255, 253]]
    target = torch.eye(256)[[255, 253]] if loss.target == "distribution" else torch.tensor([255, 253])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(loss(256, 255.0)(output, target)) < 1e-3
