"""EfficientNet against formulas in NumPy and the composition of torch's own layers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lhtx.errors import ConfigError
from lhtx.nets import SimpleEfficientNet
from lhtx.nets.simple_efficientnet import MBConv, SqueezeExcitation, _width
from lhtx.nets.stochastic_depth import StochasticDepth


def test_squeeze_and_excitation_is_its_formula():
    torch.manual_seed(0)
    layer = SqueezeExcitation(8).double()
    x = torch.randn(3, 8, 4, 5, dtype=torch.float64)
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in layer.parameters())
    assert w1.shape == (2, 8)
    squeezed = x.numpy().mean((2, 3)) @ w1.T + b1
    gates = 1 / (1 + np.exp(-((squeezed / (1 + np.exp(-squeezed))) @ w2.T + b2)))
    np.testing.assert_allclose(layer(x).detach().numpy(), x.numpy() * gates[:, :, None, None], rtol=1e-12)


def test_squeeze_and_excitation_keeps_one_channel_at_least():
    assert SqueezeExcitation(3).squeeze.out_features == 1


@pytest.mark.parametrize(("channels", "width", "stride", "residual"), [(8, 8, 1, True), (8, 8, 2, False), (8, 16, 1, False)])
def test_a_block_is_the_composition_of_torchs_own_layers(channels, width, stride, residual):
    torch.manual_seed(0)
    block = MBConv(channels, width, 6, stride, 5, drop_path=0.9).double().eval()
    with torch.no_grad():
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    x = torch.randn(2, channels, 7, 6, dtype=torch.float64)
    swish = nn.SiLU()
    y = swish(block.expand[1](nn.functional.conv2d(x, block.expand[0].weight)))
    y = nn.functional.conv2d(y, block.depthwise[0].weight, stride=stride, padding=2, groups=6 * channels)
    y = block.excite(swish(block.depthwise[1](y)))
    y = block.project[1](nn.functional.conv2d(y, block.project[0].weight))
    assert y.shape == (2, width, -(-7 // stride), -(-6 // stride))
    torch.testing.assert_close(block(x), x + y if residual else y)


def test_the_blocks_are_those_of_b0():
    with torch.device("meta"):
        blocks = SimpleEfficientNet().blocks
    kinds = [
        (b.depthwise[0].in_channels, b.project[0].out_channels, b.depthwise[0].kernel_size[0], b.depthwise[0].stride[0])
        for b in blocks
    ]
    assert kinds == [
        (32, 16, 3, 1),
        *((96, 24, 3, 2), (144, 24, 3, 1)),
        *((144, 40, 5, 2), (240, 40, 5, 1)),
        *((240, 80, 3, 2), (480, 80, 3, 1), (480, 80, 3, 1)),
        *((480, 112, 5, 1), (672, 112, 5, 1), (672, 112, 5, 1)),
        *((672, 192, 5, 2), (1152, 192, 5, 1), (1152, 192, 5, 1), (1152, 192, 5, 1)),
        (1152, 320, 3, 1),
    ]


@given(st.integers(1, 400), st.floats(0.01, 4))
def test_widths_are_the_next_multiples_of_8(channels, factor):
    width = _width(channels, factor)
    assert width % 8 == 0
    assert -1e-6 <= width - channels * factor < 8


@pytest.mark.parametrize(("channels", "factor", "width"), [(80, 1.1, 88), (40, 0.8, 32), (24, 0.8, 24), (320, 0.043, 16)])
def test_widths_do_not_depend_on_rounding_errors(channels, factor, width):
    assert _width(channels, factor) == width


@pytest.mark.parametrize(("depth_mult", "blocks"), [(1.0, 16), (0.7, 15), (0.1, 7), (2.0, 32)])
def test_depths_are_rounded_up(depth_mult, blocks):
    with torch.device("meta"):
        assert len(SimpleEfficientNet(depth_mult=depth_mult).blocks) == blocks


def test_stochastic_depth_rises_over_all_blocks():
    with torch.device("meta"):
        network = SimpleEfficientNet(drop_path_rate=0.3)
    rates = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.02 * block for block in range(16)])
    assert SimpleEfficientNet().blocks[-1].drop_path.p == pytest.approx(0.2)


def test_dropout_is_that_of_the_features(monkeypatch):
    probabilities = []
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training=True: probabilities.append(p) or x)
    network = SimpleEfficientNet(width_mult=0.1, depth_mult=0.1, dropout_rate=0.4, drop_path_rate=0.0, auxiliary_input_size=4)
    network(torch.rand(2, 1, 28, 28), torch.rand(2, 4))
    assert probabilities == [0.4, 0.2]


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (28, 33)])
def test_images_of_any_size_are_taken(shape):
    network = SimpleEfficientNet(width_mult=0.1, depth_mult=0.1).eval()
    assert network(torch.rand(2, 1, *shape)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 784)])
def test_images_it_cannot_take_are_refused(shape):
    with pytest.raises(ValueError, match=r"SimpleEfficientNet takes images \(B, 1, H, W\) of 1 pixel a side or more, and got"):
        SimpleEfficientNet(width_mult=0.1, depth_mult=0.1)(torch.rand(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_channels": 0}, "input_channels is 0; expected a whole number"),
        ({"width_mult": 0}, "width_mult is 0; expected a number above 0"),
        ({"depth_mult": float("nan")}, "depth_mult is nan; expected a number above 0"),
        ({"width_mult": "wide"}, "width_mult is 'wide'; expected a number above 0"),
        ({"dropout_rate": 1}, "dropout_rate is 1; expected a probability"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1; expected a probability"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"SimpleEfficientNet: {message}"):
        SimpleEfficientNet(**options)
