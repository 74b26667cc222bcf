"""Networks have exactly the sizes they are named for, and say what they cannot take."""

import pytest
import torch
from torch import nn

from lhtx.errors import ConfigError
from lhtx.nets import SimpleCNN, SimpleDenseNet, SimpleMLP
from lhtx.nets.heads import Heads

NETWORKS = [SimpleMLP, SimpleDenseNet, SimpleCNN]
DIGIT = {"digit": 10}
CIFAR = {"input_channels": 3, "input_size": 32, "conv1_channels": 64, "conv2_channels": 128, "fc_hidden": 512}
PARAMETERS = {"note_number": 256, "note_velocity": 256}


def dense(input_size: int, lin1_size: int, lin2_size: int, lin3_size: int, classes: int) -> dict:
    return dict(input_size=input_size, lin1_size=lin1_size, lin2_size=lin2_size, lin3_size=lin3_size, heads={"label": classes})


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("network", "options", "parameters"),
    [
        (SimpleDenseNet, {}, 336_650),
        (SimpleMLP, {}, 335_114),
        (SimpleDenseNet, dense(784, 10, 20, 10, 10), 8_470),
        (SimpleDenseNet, dense(784, 64, 128, 64, 10), 67_978),
        (SimpleDenseNet, dense(3072, 200, 400, 620, 100), 1_008_160),
        (SimpleCNN, {"conv1_channels": 3, "conv2_channels": 6, "fc_hidden": 25}, 7_851),
        (SimpleCNN, {"conv1_channels": 8, "conv2_channels": 20, "fc_hidden": 68}, 68_994),
        (SimpleCNN, {}, 421_834),
        (SimpleCNN, {"heads": {"digit": 10, "thickness": 5, "smoothness": 3}}, 422_866),
        (SimpleCNN, {"auxiliary_input_size": 4}, 423_370),
        (SimpleCNN, {**CIFAR, "heads": DIGIT}, 1_130_250),
        (SimpleCNN, {**CIFAR, "heads": {"class": 10, "domain": 2, "mobility": 3, "size": 3}}, 1_134_354),
        (SimpleCNN, {**CIFAR, "heads": {"class": 100}}, 1_176_420),
        (SimpleCNN, {**CIFAR, "heads": PARAMETERS}, 1_387_776),
        (SimpleCNN, {**CIFAR, "heads": PARAMETERS, "head_kind": "regression"}, 1_126_146),
    ],
    ids=lambda value: f"{value:_}" if isinstance(value, int) else None,
)
def test_parameter_counts(network, options, parameters):
    with torch.device("meta"):
        built = network(**options)
    assert count(built) == parameters
    assert all(parameter.is_meta for parameter in built.parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_one_head_gives_a_tensor_and_several_a_dictionary(network):
    image = torch.rand(3, 1, 28, 28)
    assert network(heads=DIGIT)(image).shape == (3, 10)
    outputs = network(heads={"a": 4, "b": 7})(image)
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {"a": (3, 4), "b": (3, 7)}


@pytest.mark.parametrize("network", NETWORKS)
def test_regression_heads_give_one_number_between_0_and_1(network):
    torch.manual_seed(0)
    outputs = network(heads={"a": 4, "b": 7}, head_kind="regression")(10 * torch.randn(50, 1, 28, 28))
    for output in outputs.values():
        assert output.shape == (50, 1)
        assert ((output > 0) & (output < 1)).all()
        assert output.std() > 0


@pytest.mark.parametrize(
    ("network", "kinds"), [(SimpleMLP, {nn.Linear, nn.Identity}), (SimpleDenseNet, {nn.Linear, nn.BatchNorm1d})]
)
def test_dense_networks_differ_in_batch_normalisation_alone(network, kinds):
    built = network()
    assert {type(module) for name, module in built.named_modules() if name.startswith(("lin", "norm"))} == kinds


def test_the_mlp_trains_on_one_sample():
    network = SimpleMLP(heads=DIGIT).train()
    network(torch.rand(1, 1, 28, 28)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_mlp_is_the_composition_of_its_layers():
    torch.manual_seed(1)
    network = SimpleMLP(12, 5, 6, 7, heads={"a": 3}).double()
    image = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    features = image.reshape(4, 12).numpy()
    for layer in (network.lin1, network.lin2, network.lin3):
        features = (features @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()).clip(min=0)
    head = network.heads.a_head
    expected = features @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    torch.testing.assert_close(network(image).detach(), torch.from_numpy(expected))


def test_the_cnn_is_the_composition_of_torchs_own_layers():
    torch.manual_seed(1)
    network = SimpleCNN(2, 3, 5, 8, input_size=20, auxiliary_input_size=4, auxiliary_hidden_size=6, heads={"a": 3}).eval()
    with torch.no_grad():
        for norm in (network.norm1, network.norm2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    maps = nn.Sequential(
        *(network.conv1, network.norm1, nn.ReLU(), nn.MaxPool2d(2)),
        *(network.conv2, network.norm2, nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), network.hidden, nn.ReLU()),
    )
    branch = nn.Sequential(network.auxiliary1, nn.ReLU(), network.auxiliary2, nn.ReLU())
    image, auxiliary = torch.randn(4, 2, 20, 20), torch.randn(4, 4)
    expected = network.heads.a_head(torch.cat([maps(image), branch(auxiliary)], dim=1))
    torch.testing.assert_close(network(image, auxiliary), expected)


@pytest.mark.parametrize(("input_size", "grid"), [(27, 4), (28, 7), (31, 7), (32, 4), (4, 4), (64, 4)])
def test_the_cnn_pools_to_seven_for_28_pixels_and_to_four_otherwise(input_size, grid):
    with torch.device("meta"):
        assert SimpleCNN(input_size=input_size).hidden.in_features == 64 * grid**2


@pytest.mark.parametrize("shape", [(4, 4), (9, 9), (28, 28), (32, 32), (32, 64), (33, 50)])
def test_the_cnn_pools_any_image_as_adaptive_pooling_does(shape):
    torch.manual_seed(0)
    network = SimpleCNN(input_size=32, heads=DIGIT).eval()
    image = torch.rand(2, 1, *shape)
    maps = network.conv2(nn.functional.max_pool2d(network.norm1(network.conv1(image)).relu(), 2))
    pooled = nn.AdaptiveAvgPool2d(4)(nn.functional.max_pool2d(network.norm2(maps).relu(), 2))
    torch.testing.assert_close(network(image), network.heads(network.hidden(pooled.flatten(1)).relu()))


@pytest.mark.parametrize("network", NETWORKS)
def test_dropout_acts_in_training_only(network):
    torch.manual_seed(0)
    built, image = network(dropout=0.5, heads=DIGIT), torch.rand(8, 1, 28, 28)
    built.eval()
    assert torch.equal(built(image), built(image))
    built.train()
    assert not torch.equal(built(image), built(image))


def test_the_auxiliary_branch_drops_half_as_much(monkeypatch):
    probabilities = []
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training: probabilities.append(p) or x)
    SimpleCNN(dropout=0.5, auxiliary_input_size=4)(torch.rand(2, 1, 28, 28), torch.rand(2, 4))
    assert sorted(probabilities) == [0.25, 0.5]


@pytest.mark.parametrize("network", NETWORKS)
def test_auxiliary_features_that_are_not_expected_are_refused(network):
    with pytest.raises(ValueError, match=rf"{network.__name__} was built with auxiliary_input_size=0 and got .*\(2, 4\)"):
        network()(torch.rand(2, 1, 28, 28), torch.rand(2, 4))


def test_auxiliary_features_that_are_missing_or_of_another_number_are_refused():
    network, image = SimpleCNN(auxiliary_input_size=4), torch.rand(2, 1, 28, 28)
    with pytest.raises(ValueError, match="auxiliary_input_size=4 and got no auxiliary features; they are required"):
        network(image)
    with pytest.raises(ValueError, match=r"takes auxiliary features of shape \(B, 4\) and got \(2, 3\)"):
        network(image, torch.rand(2, 3))


@pytest.mark.parametrize("network", [SimpleMLP, SimpleDenseNet])
def test_images_of_another_size_are_refused_by_name(network):
    with pytest.raises(ValueError, match=r"input_size=784 .* shape \(3, 32, 32\), 3072 numbers"):
        network()(torch.rand(2, 3, 32, 32))


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 1, 3, 28), (2, 784), (1, 28, 28)])
def test_the_cnn_refuses_images_it_cannot_take(shape):
    with pytest.raises(ValueError, match=r"SimpleCNN takes images \(B, 1, H, W\) of 4 pixels a side or more, and got"):
        SimpleCNN()(torch.rand(shape))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SimpleCNN(input_size=3), "input_size is 3 pixels; two poolings by 2 need 4 or more"),
        (lambda: SimpleCNN(conv2_channels=0), "SimpleCNN: conv2_channels is 0; expected a whole number, 1 or more"),
        (lambda: SimpleCNN(auxiliary_input_size=-1), "SimpleCNN: auxiliary_input_size is -1; expected a whole number"),
        (lambda: SimpleMLP(lin2_size=4.5), "SimpleMLP: lin2_size is 4.5; expected a whole number, 1 or more"),
        (lambda: SimpleDenseNet(dropout=1.0), "SimpleDenseNet: dropout is 1.0; expected a probability"),
        (lambda: SimpleMLP(heads={}), "needs one head at least"),
        (lambda: SimpleMLP(heads={"a.b": 4}), "the head name 'a.b' is empty or has a dot in it"),
        (lambda: SimpleMLP(heads={"a": 1}), "the head 'a' has 1 classes; expected 2 or more"),
        (lambda: SimpleMLP(head_kind="ordinal"), "unknown head_kind 'ordinal'. Accepted: classification, regression"),
    ],
)
def test_senseless_options_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_head_may_have_the_name_of_a_module_method():
    heads = Heads(4, {"type": 3, "train": 2, "forward": 5}, "classification")
    assert [tuple(output.shape) for output in heads(torch.rand(2, 4)).values()] == [(2, 3), (2, 2), (2, 5)]


def test_layers_have_names_to_read():
    names = {name.rpartition(".")[0] for name, _ in SimpleCNN(auxiliary_input_size=4, heads=PARAMETERS).named_parameters()}
    assert names == {
        *("conv1", "norm1", "conv2", "norm2", "hidden", "auxiliary1", "auxiliary2"),
        *("heads.note_number_head", "heads.note_velocity_head"),
    }
