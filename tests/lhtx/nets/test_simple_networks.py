"""The dense networks and the small CNN are the composition of torch's own layers, and say what they cannot take."""

import pytest
import torch
from torch import nn

from lhtx.errors import ConfigError
from lhtx.nets import SimpleCNN, SimpleDenseNet, SimpleMLP

DIGIT = {"digit": 10}
CIFAR = {"input_channels": 3, "input_size": 32, "conv1_channels": 64, "conv2_channels": 128, "fc_hidden": 512}
PARAMETERS = {"note_number": 256, "note_velocity": 256}


@pytest.mark.parametrize(
    ("network", "options", "parameters"),
    [
        (SimpleDenseNet, {}, 336_650),
        (SimpleMLP, {}, 335_114),
        (SimpleCNN, {}, 421_834),
        (SimpleCNN, {"auxiliary_input_size": 4}, 423_370),
        (SimpleCNN, {**CIFAR, "heads": PARAMETERS}, 1_387_776),
        (SimpleCNN, {**CIFAR, "heads": PARAMETERS, "head_kind": "regression"}, 1_126_146),
    ],
    ids=lambda value: f"{value:_}" if isinstance(value, int) else None,
)
def test_parameter_counts(network, options, parameters):
    with torch.device("meta"):
        built = network(**options)
    assert sum(parameter.numel() for parameter in built.parameters()) == parameters


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
    branch = nn.Sequential(network.fusion.linear1, nn.ReLU(), network.fusion.linear2, nn.ReLU())
    image, auxiliary = torch.randn(4, 2, 20, 20), torch.randn(4, 4)
    expected = network.heads.a_head(torch.cat([maps(image), branch(auxiliary)], dim=1))
    torch.testing.assert_close(network(image, auxiliary), expected)


@pytest.mark.parametrize(("input_size", "grid"), [(27, 4), (28, 7), (31, 7), (32, 4), (4, 4), (64, 4)])
def test_the_cnn_pools_to_seven_for_28_pixels_and_to_four_otherwise(input_size, grid):
    with torch.device("meta"):
        assert SimpleCNN(input_size=input_size).hidden.in_features == 64 * grid**2


@pytest.mark.parametrize("shape", [(4, 4), (8, 8), (4, 8), (9, 9), (28, 28), (32, 32), (32, 64), (33, 50)])
def test_the_cnn_pools_any_image_as_adaptive_pooling_does(shape):
    torch.manual_seed(0)
    network = SimpleCNN(input_size=32, heads=DIGIT).eval()
    image = torch.rand(2, 1, *shape)
    maps = network.conv2(nn.functional.max_pool2d(network.norm1(network.conv1(image)).relu(), 2))
    pooled = nn.AdaptiveAvgPool2d(4)(nn.functional.max_pool2d(network.norm2(maps).relu(), 2))
    torch.testing.assert_close(network(image), network.heads(network.hidden(pooled.flatten(1)).relu()))


def test_the_auxiliary_branch_drops_half_as_much(monkeypatch):
    probabilities = []
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training: probabilities.append(p) or x)
    SimpleCNN(dropout=0.5, auxiliary_input_size=4)(torch.rand(2, 1, 28, 28), torch.rand(2, 4))
    assert sorted(probabilities) == [0.25, 0.5]


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
        (lambda: SimpleMLP(lin2_size=4.5), "SimpleMLP: lin2_size is 4.5; expected a whole number, 1 or more"),
        (lambda: SimpleDenseNet(dropout=1.0), "SimpleDenseNet: dropout is 1.0; expected a probability"),
        (lambda: SimpleMLP(dropout="half"), "SimpleMLP: dropout is 'half'; expected a probability"),
    ],
)
def test_senseless_options_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_layers_have_names_to_read():
    names = {name.rpartition(".")[0] for name, _ in SimpleCNN(auxiliary_input_size=4, heads=PARAMETERS).named_parameters()}
    assert names == {
        *("conv1", "norm1", "conv2", "norm2", "hidden", "fusion.linear1", "fusion.linear2"),
        *("heads.note_number_head", "heads.note_velocity_head"),
    }
