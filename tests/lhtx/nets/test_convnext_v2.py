"""ConvNeXt V2 against its paper's formulas in float64 NumPy and against torch's own layers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lhtx.errors import ConfigError
from lhtx.nets import ConvNeXtV2
from lhtx.nets.convnext_v2 import Block, ChannelNorm, GlobalResponseNorm
from lhtx.nets.stochastic_depth import StochasticDepth


def test_global_response_normalisation_is_the_papers():
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=6), rng.normal(size=6)
    norms = np.sqrt((x**2).sum((1, 2), keepdims=True))  # (3, 1, 1, 6)
    expected = gamma * (x * (norms / (norms.mean(-1, keepdims=True) + 1e-6))) + beta + x
    layer = GlobalResponseNorm(6).double()
    with torch.no_grad():
        layer.gamma.copy_(torch.from_numpy(gamma))
        layer.beta.copy_(torch.from_numpy(beta))
    np.testing.assert_allclose(layer(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(layer.float()(torch.from_numpy(x).float()).detach(), torch.from_numpy(expected).float())


def test_gradients_of_global_response_normalisation_are_right():
    torch.manual_seed(0)
    layer = GlobalResponseNorm(3).double()
    nn.init.normal_(layer.gamma)
    x = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_global_response_normalisation_starts_as_the_identity():
    x = torch.randn(2, 3, 3, 4)
    assert torch.equal(GlobalResponseNorm(4)(x), x)


def test_a_channel_of_zeros_has_a_gradient():
    layer = GlobalResponseNorm(4)
    nn.init.ones_(layer.gamma)
    x = torch.rand(2, 3, 3, 4)
    x[..., 1] = 0
    x[1] = 0
    x.requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert layer.gamma.grad.isfinite().all()


def test_channel_norm_is_layer_norm_over_the_channels_of_a_pixel():
    torch.manual_seed(0)
    layer = ChannelNorm(5).double()
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    centred = x - x.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    expected = expected * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)


def test_a_block_is_the_composition_of_convolutions():
    """Linear layers on pixels are convolutions of one pixel; everything else is written out in (B, C, H, W)."""
    torch.manual_seed(0)
    block = Block(4, 5, drop_path=0.9).double().eval()
    nn.init.normal_(block.grn.gamma)
    nn.init.normal_(block.grn.beta)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    y = F.conv2d(x, block.depthwise.weight, block.depthwise.bias, padding=2, groups=4)
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, correction=0) + 1e-6).sqrt()  # weight 1, bias 0
    y = F.gelu(F.conv2d(y, block.expand.weight[:, :, None, None], block.expand.bias))
    norms = y.flatten(2).norm(dim=2)[:, :, None, None]
    responses = norms / (norms.mean(1, keepdim=True) + 1e-6)
    y = y + block.grn.gamma[:, None, None] * y * responses + block.grn.beta[:, None, None]
    y = F.conv2d(y, block.project.weight[:, :, None, None], block.project.bias)
    torch.testing.assert_close(block(x), x + y)


def test_maps_are_halved_between_stages():
    sizes = []
    network = ConvNeXtV2(in_chans=3, input_size=32, heads={"a": 3})
    for stage in network.stages:
        stage.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    network(torch.rand(1, 3, 32, 32))
    assert sizes == [(12, 16, 16), (24, 8, 8), (48, 4, 4), (96, 2, 2)]


@pytest.mark.parametrize(
    ("input_size", "stem"), [(28, 2), (32, 2), (33, 4), (64, 4), (224, 4), ([32, 64], 2), ([64, 28], 2), ([64, 40], 4)]
)
def test_the_stem_halves_images_of_28_and_32_pixels_and_quarters_others(input_size, stem):
    with torch.device("meta"):
        network = ConvNeXtV2(input_size=input_size)
        assert network.stem[0].kernel_size == network.stem[0].stride == (stem, stem)
        assert ConvNeXtV2(input_size=input_size, stem_size=3).stem[0].stride == (3, 3)


def test_stochastic_depth_rises_over_all_blocks():
    with torch.device("meta"):
        network = ConvNeXtV2(depths=(1, 2, 2, 1), drop_path_rate=0.5)
    rates = [module.p for module in network.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_heads_start_at_their_scale():
    torch.manual_seed(0)
    whole = ConvNeXtV2()
    torch.manual_seed(0)
    scaled = ConvNeXtV2(head_init_scale=0.001)
    torch.testing.assert_close(scaled.heads.digit_head.weight, whole.heads.digit_head.weight * 0.001)
    assert torch.equal(scaled.stem[0].weight, whole.stem[0].weight)
    assert whole.heads.digit_head.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 8}, r"input_size is 8, and a stem of 4 pixels and 3 halvings between 4 stages need 32 pixels .* fewer"),
        ({"input_size": [64, 24]}, r"input_size is \[64, 24\], and a stem of 4 pixels"),
        ({"input_size": [32, 32, 32]}, r"input_size is \[32, 32, 32\]; expected one number for a square, or height and width"),
        ({"input_size": [32, 0]}, r"input_size \(width\) is 0; expected a whole number"),
        ({"kernel_size": 4}, "kernel_size is 4, and a kernel centred on its pixel is odd; take 3 or 5"),
        ({"depths": [1, 1]}, r"depths \[1, 1\] has 2 stages and dims \[12, 24, 48, 96\] has 4; expected as many"),
        ({"depths": 3}, "depths is 3; expected one whole number for each stage"),
        ({"dims": []}, r"dims is \[\]; expected one whole number for each stage"),
        ({"dims": [4, 0, 4, 4]}, r"dims\[1\] is 0; expected a whole number, 1 or more"),
        ({"drop_path_rate": 1.0}, "drop_path_rate is 1.0; expected a probability"),
        ({"head_init_scale": 0.0}, "head_init_scale is 0.0; expected a number above 0"),
        ({"stem_size": 0}, "stem_size is 0; expected a whole number"),
        ({"in_chans": 0}, "in_chans is 0; expected a whole number"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"ConvNeXtV2: {message}"):
        ConvNeXtV2(**options)


@pytest.mark.parametrize("shape", [(2, 1, 15, 28), (2, 784), (1, 28, 28)])
def test_images_it_cannot_take_are_refused(shape):
    with pytest.raises(ValueError, match=r"ConvNeXtV2 takes images \(B, 1, H, W\) of 16 pixels a side or more, and got"):
        ConvNeXtV2()(torch.rand(shape))


def test_images_of_other_sizes_are_taken():
    assert ConvNeXtV2()(torch.rand(2, 1, 16, 50)).shape == (2, 10)
