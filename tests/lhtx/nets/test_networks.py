"""What holds for every network: what it gives for which heads, what it learns from, what it refuses, what it runs under."""

import copy
import itertools
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, vmap

import lhtx.nets
from lhtx.errors import ConfigError
from lhtx.nets import SimpleCNN
from lhtx.nets.heads import Heads
from lhtx.tasks import MultiheadTask

ONE, TWO = {"a": 5}, {"a": 5, "b": 3}
SPECS = {name: {"classes": classes, "minimum": 0.0, "maximum": classes - 1.0, "step": 1.0} for name, classes in TWO.items()}


def images(batch: int = 6) -> torch.Tensor:
    return torch.randn(batch, 2, 16, 16, generator=torch.Generator().manual_seed(0))


def auxiliary(batch: int = 6) -> torch.Tensor:
    return torch.randn(batch, 4, generator=torch.Generator().manual_seed(1))


def test_these_tests_cover_every_network(covered):
    assert covered == set(lhtx.nets.__all__)


@pytest.mark.parametrize(("heads", "kind", "features"), itertools.product([ONE, TWO], ["classification", "regression"], [0, 4]))
def test_one_head_gives_a_tensor_and_several_a_dictionary(build, heads, kind, features):
    torch.manual_seed(0)
    network = build(heads, head_kind=kind, auxiliary_input_size=features)
    output = network(images(), auxiliary()) if features else network(images())
    outputs = {"a": output} if heads is ONE else output
    assert list(outputs) == list(heads)
    for name, output in outputs.items():
        assert output.shape == (6, heads[name] if kind == "classification" else 1)
        assert output.std() > 0
        if kind == "regression":
            assert ((output > 0) & (output < 1)).all()


@pytest.mark.parametrize("heads", [ONE, TWO])
def test_every_parameter_gets_a_gradient(build, heads):
    torch.manual_seed(0)
    network = build(heads, auxiliary_input_size=4, auxiliary_hidden_size=16).eval()  # nothing is dropped
    output = network(images(), auxiliary())
    sum(head.pow(2).sum() for head in ([output] if heads is ONE else output.values())).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.ndim == 1 or parameter.grad.abs().max() > 0, name


def test_auxiliary_features_reach_every_head(build):
    torch.manual_seed(0)
    network = build(TWO, auxiliary_input_size=4).eval()
    features = auxiliary().requires_grad_()
    for output in network(images(), features).values():
        (gradient,) = torch.autograd.grad(output.sum(), features, retain_graph=True)
        assert (gradient != 0).any(1).all()


def test_the_auxiliary_branch_is_the_same_everywhere(build):
    """Its parameters are those of Linear(F, H), Linear(H, H) and H more columns in every head."""
    with torch.device("meta"):
        plain, fused = build(TWO), build(TWO, auxiliary_input_size=4, auxiliary_hidden_size=6)
    extra = sum(p.numel() for p in fused.parameters()) - sum(p.numel() for p in plain.parameters())
    assert extra == (4 * 6 + 6) + (6 * 6 + 6) + 6 * (5 + 3)
    assert (plain.auxiliary_input_size, fused.auxiliary_input_size) == (0, 4)


def test_auxiliary_features_that_do_not_fit_are_refused(build):
    plain, fused = build(ONE), build(ONE, auxiliary_input_size=4)
    with pytest.raises(ValueError, match=rf"{build.name} was built with auxiliary_input_size=0 and got .*\(6, 4\)"):
        plain(images(), auxiliary())
    with pytest.raises(ValueError, match="auxiliary_input_size=4 and got no auxiliary features; they are required"):
        fused(images())
    with pytest.raises(ValueError, match=rf"{build.name} takes auxiliary features of shape \(B, 4\) and got \(6, 3\)"):
        fused(images(), auxiliary()[:, :3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auxiliary_input_size": -1}, "auxiliary_input_size is -1; expected a whole number, 1 or more"),
        ({"auxiliary_hidden_size": 0}, "auxiliary_hidden_size is 0; expected a whole number, 1 or more"),
        ({"head_kind": "ordinal"}, "unknown head_kind 'ordinal'. Accepted: classification, regression"),
        ({"heads": {}}, "needs one head at least"),
        ({"heads": {"a.b": 4}}, "the head name 'a.b' is empty or has a dot in it"),
        ({"heads": {"a": 1}}, "the head 'a' has 1 classes; expected 2 or more"),
    ],
)
def test_senseless_options_are_refused(build, options, message):
    with pytest.raises(ConfigError, match=message):
        build(**{"heads": ONE, **options})


def test_images_of_other_channels_are_refused_by_name(build):
    with pytest.raises(ValueError, match=rf"{build.name} .*3, 16, 16\)"):
        build(ONE)(torch.rand(6, 3, 16, 16))


def test_something_is_dropped_in_training_only(build):
    torch.manual_seed(0)
    network = build(ONE)
    network.eval()
    assert torch.equal(network(images()), network(images()))
    network.train()
    assert not torch.equal(network(images()), network(images()))


def test_networks_build_without_allocating_a_weight(build):
    with torch.device("meta"):
        network = build(TWO, auxiliary_input_size=4)
    assert all(parameter.is_meta for parameter in network.parameters())


def test_equal_seeds_give_equal_weights(build):
    torch.manual_seed(3)
    first = build(TWO, auxiliary_input_size=4).state_dict()
    torch.manual_seed(3)
    second = build(TWO, auxiliary_input_size=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_memory_format_changes_no_result(build):
    torch.manual_seed(0)
    network = build(TWO, auxiliary_input_size=4).eval()
    task = MultiheadTask(copy.deepcopy(network), SPECS, channels_last=True).eval()
    expected = network(images(), auxiliary())
    outputs = task({"image": images(), "auxiliary": auxiliary()})
    for name in TWO:
        torch.testing.assert_close(outputs[name], expected[name])
    sum(output.sum() for output in expected.values()).backward()
    sum(output.sum() for output in outputs.values()).backward()
    for (name, one), two in zip(network.named_parameters(), task.net.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_of_single_samples_come_from_torch_func(build):
    """`vmap` over a batch refuses whatever branches on the numbers in a tensor."""
    torch.manual_seed(0)
    network = build(ONE, auxiliary_input_size=4).double().eval()
    image, features, target = images(3).double(), auxiliary(3).double(), torch.tensor([0, 1, 4])

    def loss(parameters, image, features, target):
        output = functional_call(network, parameters, (image[None], features[None]))
        return F.cross_entropy(output, target[None])

    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    together = vmap(grad(loss), in_dims=(None, 0, 0, 0))(parameters, image, features, target)
    for sample in range(3):
        alone = torch.autograd.grad(
            loss(dict(network.named_parameters()), image[sample], features[sample], target[sample]), list(network.parameters())
        )
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(together[name][sample], gradient)


def test_a_network_is_one_graph(build):
    """Dynamo traces it whole, in training too: nothing in it needs Python to look at a tensor's values."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = build(TWO, auxiliary_input_size=4).eval()
    traced = torch.compile(network, backend="eager", fullgraph=True)
    outputs, expected = traced(images(), auxiliary()), network(images(), auxiliary())
    for name in TWO:
        torch.testing.assert_close(outputs[name], expected[name])
    network.train()
    assert all(output.isfinite().all() for output in traced(images(), auxiliary()).values())


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_the_compile_switch_changes_no_result():
    torch._dynamo.reset()
    torch.manual_seed(0)
    network = SimpleCNN(2, 4, 8, 8, input_size=16, auxiliary_input_size=4, heads=TWO).eval()
    task = MultiheadTask(copy.deepcopy(network), SPECS, compile=True).eval()
    names = list(task.state_dict())
    task.setup("fit")
    expected = network(images(), auxiliary())
    outputs = task({"image": images(), "auxiliary": auxiliary()})
    for name in TWO:
        torch.testing.assert_close(outputs[name], expected[name])
    sum(output.sum() for output in expected.values()).backward()
    sum(output.sum() for output in outputs.values()).backward()
    for one, two in zip(network.parameters(), task.net.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-4)
    assert list(task.state_dict()) == names
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # what ran was compiled


def test_a_head_may_have_the_name_of_a_module_method():
    heads = Heads(4, {"type": 3, "train": 2, "forward": 5}, "classification")
    assert [tuple(output.shape) for output in heads(torch.rand(2, 4)).values()] == [(2, 3), (2, 2), (2, 5)]
