"""The two encoders of the vision transformer are one function; what it refuses it names."""

import numpy as np
import pytest
import torch
from torch import nn

from lhtx.errors import ConfigError
from lhtx.nets import VisionTransformer
from lhtx.nets.vision_transformer import SelfAttention, translate_encoder

OPTIONS = {"n_channels": 2, "image_size": [8, 12], "embed_dim": 12, "n_layers": 3, "n_attention_heads": 3, "forward_mul": 3}


def both(**options) -> tuple[VisionTransformer, VisionTransformer]:
    """A network with the encoder written out and one with torch's, of equal weights, none of them at its initial value."""
    written_out, torchs = (VisionTransformer(**OPTIONS, **options, use_torch_layers=flag).double() for flag in (False, True))
    with torch.no_grad():
        for parameter in written_out.parameters():
            parameter.normal_(std=0.5)
    torchs.load_state_dict(translate_encoder(written_out.state_dict(), use_torch_layers=True))
    return written_out, torchs


@pytest.mark.parametrize("heads", [{"a": 5}, {"a": 5, "b": 3}])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_both_encoders_are_the_same_function(heads, dropout):
    torch.manual_seed(0)
    written_out, torchs = both(heads=heads, dropout=dropout)
    assert type(torchs.encoder) is nn.TransformerEncoder
    image = torch.randn(4, 2, 8, 12, dtype=torch.float64)
    for network in (written_out, torchs):
        network.train(mode=dropout == 0)
    expected, output = written_out(image), torchs(image)
    torch.testing.assert_close(output, expected)
    with torch.no_grad():
        torch.testing.assert_close(torchs.eval()(image), expected)  # torch's fast path
    for outputs in (expected, output):
        sum(head.square().sum() for head in (outputs.values() if len(heads) > 1 else [outputs])).backward()
    gradients = [
        translate_encoder({name: parameter.grad for name, parameter in network.named_parameters()}, use_torch_layers=True)
        for network in (written_out, torchs)
    ]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_both_encoders_drop_as_much_at_the_same_places():
    """In training they draw different numbers, so their outputs are compared in distribution: mean and spread."""
    torch.manual_seed(0)
    written_out, torchs = both(heads={"a": 4}, dropout=0.3)
    image = torch.randn(1, 2, 8, 12, dtype=torch.float64).expand(4000, -1, -1, -1)
    with torch.no_grad():
        one, two = written_out.train()(image), torchs.train()(image)
    error = 4 * (one.std(0) + two.std(0)) / 4000**0.5
    assert (one.std(0) > 0.01).all()
    assert ((one.mean(0) - two.mean(0)).abs() < error).all()
    assert ((one.std(0) - two.std(0)).abs() < error).all()


def test_translating_there_and_back_changes_nothing():
    written_out, torchs = both(heads={"a": 4})
    for network, other in ((written_out, True), (torchs, False)):
        state = network.state_dict()
        back = translate_encoder(translate_encoder(state, other), not other)
        assert list(back) == list(state)
        assert all(torch.equal(back[name], state[name]) for name in state)


def test_both_encoders_start_alike():
    torch.manual_seed(0)
    networks = VisionTransformer(), VisionTransformer(use_torch_layers=True)
    states = [translate_encoder(network.state_dict(), use_torch_layers=False) for network in networks]
    for name, tensor in states[0].items():
        assert tensor.shape == states[1][name].shape
        if tensor.ndim > 1 and tensor.numel() > 1000 and not name.startswith("heads"):
            glorot = (2 / (len(tensor) + tensor[0].numel())) ** 0.5
            expected = 64**-0.5 if name == "position" else glorot
            assert tensor.std().item() == pytest.approx(expected, rel=0.1), name
            assert states[1][name].std().item() == pytest.approx(expected, rel=0.1), name
        elif name.startswith("encoder"):
            assert torch.equal(tensor, states[1][name])
    layers = networks[1].encoder.layers
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)  # torch makes copies of one layer


def test_attention_is_its_formula():
    torch.manual_seed(0)
    layer = SelfAttention(6, 2, dropout=0.0).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    w, b = layer.in_proj.weight.detach().numpy(), layer.in_proj.bias.detach().numpy()
    query, key, value = np.split(x.numpy() @ w.T + b, 3, axis=-1)
    heads = []
    for columns in (slice(0, 3), slice(3, 6)):
        scores = query[..., columns] @ key[..., columns].transpose(0, 2, 1) / np.sqrt(3)
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        heads.append(weights @ value[..., columns])
    expected = np.concatenate(heads, -1) @ layer.out_proj.weight.detach().numpy().T + layer.out_proj.bias.detach().numpy()
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10)


def test_patches_keep_their_places():
    """A token sees just the pixels of its patch, in reading order."""
    network = VisionTransformer(n_channels=1, image_size=[4, 6], patch_size=2, embed_dim=4, heads={"a": 2})
    tokens = []
    network.encoder.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[0]))
    image = torch.zeros(1, 1, 4, 6)
    network.eval()(image)
    image[0, 0, 3, 2] = 1.0  # second row of patches, second column
    network(image)
    changed = (tokens[0] != tokens[1]).any(-1)[0].nonzero().flatten().tolist()
    assert changed == [1 + 4]  # after the class token


@pytest.mark.parametrize(
    ("heads", "kind", "tanh"),
    [({"a": 3}, "classification", True), ({"a": 3, "b": 3}, "classification", False), ({"a": 3}, "regression", False)],
)
def test_a_hidden_layer_stands_before_a_single_classification_head(heads, kind, tanh):
    network = VisionTransformer(heads=heads, head_kind=kind)
    assert [type(module) for module in network.hidden.children()] == ([nn.Linear, nn.Tanh] if tanh else [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"embed_dim": 30},
            "embed_dim 30 is not divisible by n_attention_heads 4. Accepted heads for this embed_dim: 1, 2, 3, 5,",
        ),
        ({"image_size": 30}, "patch_size 4 does not divide an image of 30×30 pixels. Accepted: 1, 2, 3, 5, 6, 10, 15, 30"),
        ({"image_size": [8, 12], "patch_size": 8}, "patch_size 8 does not divide an image of 8×12 pixels. Accepted: 1, 2, 4$"),
        ({"image_size": "28x28"}, r"image_size \(height\) is '28x28'; expected a whole number"),
        ({"n_layers": 0}, "n_layers is 0; expected a whole number, 1 or more"),
        ({"n_attention_heads": 0}, "n_attention_heads is 0; expected a whole number, 1 or more"),
        ({"forward_mul": 1.5}, "forward_mul is 1.5; expected a whole number, 1 or more"),
        ({"patch_size": 0}, "patch_size is 0; expected a whole number, 1 or more"),
        ({"dropout": -0.1}, "dropout is -0.1; expected a probability"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"VisionTransformer: {message}"):
        VisionTransformer(**options)


@pytest.mark.parametrize("shape", [(2, 1, 32, 28), (2, 784), (1, 28, 28)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"VisionTransformer was built for images \(B, 1, 28, 28\), and got"):
        VisionTransformer(n_layers=1)(torch.rand(shape))
