"""Tables and pictures of networks: shapes, sizes and connections are those of the network, for every one of them."""

import re
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from lhtx import nets
from lhtx.compose import CONFIGS
from lhtx.diagram import draw, trace
from lhtx.diagram.__main__ import build, main, model_sizes
from lhtx.nets.heads import Heads

HEADS = {"note": 12, "loudness": 4}
NETWORKS = {
    "SimpleMLP": {"input_size": 3 * 32 * 32},
    "SimpleDenseNet": {"input_size": 3 * 32 * 32},
    "SimpleCNN": {"input_channels": 3, "input_size": 32},
    "ConvNeXtV2": {"in_chans": 3, "input_size": 32},
    "SimpleEfficientNet": {"input_channels": 3, "width_mult": 0.25, "depth_mult": 0.5},
    "VisionTransformer": {"n_channels": 3, "image_size": 32},
}


def build_net(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return getattr(nets, name)(**NETWORKS[name], **options)


def by_name(traced):
    return {block.part.name: block for block in traced.blocks}


def upstream(traced, name: str) -> set[str]:
    """Everything that reaches a block."""
    blocks, found, waiting = by_name(traced), set(), [name]
    while waiting:
        block = blocks.get(waiting.pop())
        new = set(block.inputs) - found if block else set()
        found |= new
        waiting += new
    return found


def test_all_networks_are_covered():
    assert set(NETWORKS) == set(nets.__all__)


@pytest.mark.parametrize("auxiliary", [0, 4])
@pytest.mark.parametrize("heads", [HEADS, {"note": 12}], ids=["multihead", "single"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_traced_whole(network, heads, auxiliary):
    net = build_net(network, heads=heads, auxiliary_input_size=auxiliary)
    traced = trace(net, (3, 32, 32), auxiliary)
    loose = sum(torch.Size(shape).numel() for shape in traced.loose.values())
    assert traced.parameters == sum(block.parameters for block in traced.blocks) + loose
    assert traced.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert {part.name for part in traced.parts} == {name for name, _ in net.named_modules() if name}
    assert all(block.inputs for block in traced.blocks)
    blocks = by_name(traced)
    for head, classes in heads.items():
        assert blocks[f"heads.{head}_head"].part.shapes == ((classes,),)
        assert {"image", *(["auxiliary"] if auxiliary else [])} <= upstream(traced, f"heads.{head}_head")


def test_connections_follow_the_tensors_and_not_the_order_of_the_modules():
    traced = trace(build_net("SimpleCNN", heads=HEADS, auxiliary_input_size=4), (3, 32, 32), 4)
    assert {block.part.name: block.inputs for block in traced.blocks} == {
        "conv1": ("image",),
        "norm1": ("conv1",),
        "conv2": ("norm1",),
        "norm2": ("conv2",),
        "hidden": ("norm2",),
        "fusion.linear1": ("auxiliary",),
        "fusion.linear2": ("fusion.linear1",),
        "heads.note_head": ("hidden", "fusion.linear2"),
        "heads.loudness_head": ("hidden", "fusion.linear2"),
    }
    blocks = by_name(traced)
    assert blocks["conv1"].part.shapes == ((32, 32, 32),)
    assert blocks["conv2"].part.shapes == ((64, 16, 16),)
    assert traced.inputs == {"image": (3, 32, 32), "auxiliary": (4,)}


class Skipping(nn.Module):
    """Two branches off one layer, one of them past the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 8), nn.Linear(8, 8)
        self.unused = nn.Linear(3, 3)
        self.heads = Heads(8, {"a": 2}, "classification")

    def forward(self, image, auxiliary=None):
        hidden = self.first(image.flatten(1))
        return self.heads(hidden + torch.relu(self.second(hidden)))


def test_a_skip_connection_is_drawn_around_what_it_skips():
    with torch.device("meta"):
        traced = trace(Skipping(), (1, 4, 4))
    assert set(by_name(traced)["heads.a_head"].inputs) == {"first", "second"}
    assert traced.loose == {"unused.weight": (3, 3), "unused.bias": (3,)}
    assert next(part for part in traced.parts if part.name == "unused").shapes == ()
    assert len(re.findall(r'<path d="M [\d.]+ [\d.]+ C', draw(traced))) == 4


@pytest.mark.parametrize("use_torch_layers", [False, True])
def test_layers_that_repeat_are_one_box(use_torch_layers):
    net = build_net("VisionTransformer", heads=HEADS, n_layers=6, use_torch_layers=use_torch_layers)
    traced = trace(net, (3, 32, 32))
    layers = by_name(traced)["encoder.layers.0"]
    assert (layers.times, layers.name) == (6, "encoder.layers.0 … 5")
    assert layers.parameters == sum(p.numel() for p in net.encoder.layers.parameters())
    assert by_name(traced)["encoder.norm"].inputs == ("encoder.layers.0",)
    assert traced.loose.keys() == {"position", "class_token"}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_picture_has_every_block_once_and_no_two_on_the_same_place(network):
    traced = trace(build_net(network, heads=HEADS, auxiliary_input_size=4), (3, 32, 32), 4)
    root = ElementTree.fromstring(draw(traced))
    svg = "{http://www.w3.org/2000/svg}"
    boxes = [(group.find(f"{svg}rect"), group.find(f"{svg}text").text) for group in root.iter(f"{svg}g")]
    names = [name for _, name in boxes]
    assert sorted(names) == sorted([*traced.inputs, *(block.name for block in traced.blocks)])
    corners = [(float(box.get("x")), float(box.get("y"))) for box, _ in boxes]
    width, height = float(boxes[0][0].get("width")), float(boxes[0][0].get("height"))
    for place, (x, y) in enumerate(corners):
        assert 0 <= x <= float(root.get("width")) - width
        assert 0 <= y <= float(root.get("height")) - height
        assert all(abs(x - x2) >= width or abs(y - y2) >= height for x2, y2 in corners[:place])
    arrows = sum(1 for path in root.iter(f"{svg}path"))
    assert arrows == sum(len(block.inputs) for block in traced.blocks)


def test_names_are_escaped_in_the_picture():
    net = Skipping()
    net.heads = Heads(8, {"a<b&c": 2}, "classification")
    assert "heads.a<b&c_head" in "".join(ElementTree.fromstring(draw(trace(net.to("meta"), (1, 4, 4)))).itertext())


def test_sizes_are_told_without_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LHTX_ROOT", str(tmp_path))
    assert main(["--sizes", "*_sdn*"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "| `mnist_sdn_8k` | `SimpleDenseNet` | `mnist` | 8,470 |" in printed
    assert "| `cifar100_sdn_1m` | `SimpleDenseNet` | `cifar100` | 1,008,160 |" in printed
    assert len(printed) == 2 + len(list((CONFIGS / "model").glob("[!_]*_sdn*.yaml")))
    assert any(line.startswith("| `vimh_sdn` ") for line in printed)
    assert not list(tmp_path.iterdir())


def test_the_longest_name_of_a_dataset_tells_the_data_of_a_model():
    assert model_sizes("mnist_multihead*") == [("mnist_multihead_cnn_423k", "SimpleCNN", "mnist_multihead", 422866)]


@pytest.mark.slow
def test_every_model_has_a_size():
    assert [model for model, *_ in model_sizes()] == sorted(path.stem for path in (CONFIGS / "model").glob("[!_]*.yaml"))


def test_the_command_line_prints_a_table_and_writes_the_picture(tmp_path, capsys):
    overrides = ["data=digits", "model=digits_cnn", f"paths.output_dir={tmp_path}"]
    assert main([*overrides, "--depth", "1"]) == 0
    printed = capsys.readouterr().out
    _, task = build(overrides)
    total = sum(parameter.numel() for parameter in task.net.parameters())
    assert re.search(rf"^SimpleCNN +{total:,}", printed, flags=re.MULTILINE)
    assert re.search(r"^image +input +1 × 8 × 8", printed, flags=re.MULTILINE)
    assert "heads.digit_head" not in printed
    line = "digits: 1 × 8 × 8; heads digit (10 classes)"
    assert printed.startswith(f"{line}\n\n")
    assert line in (tmp_path / "diagram.svg").read_text()


def test_a_table_that_no_terminal_shows_has_a_line_a_module(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["data=cifar100", "model=cifar100_convnext_1m", f"paths.output_dir={tmp_path}", "--depth", "4"]) == 0
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert all(re.search(r"[\d,]+ *$", line) for line in table[2:])
    assert max(map(len, table)) > 40


def test_the_picture_is_of_the_dataset_that_was_drawn_for(tmp_path):
    overrides = ["data=digits", "model=digits_cnn", f"paths.output_dir={tmp_path}"]
    assert main(overrides) == 0
    assert ElementTree.fromstring((tmp_path / "diagram.svg").read_text()).get("width")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model=vimh_cnn", "--sizes"], "--sizes takes the models as they are; leave out model=vimh_cnn"),
        (["--sizes", "vimh_cmn"], "no model is called like 'vimh_cmn'. Did you mean vimh_cnn"),
        (["--depth", "0"], "--depth is 0; expected 1 or more"),
        (["model=vimh_cmn"], "Did you mean vimh_cnn"),
        (["data=mnist", "model=mnist_vit_38k", "model.net.image_size=32"], "does not take what the dataset mnist gives"),
        (["data=mnist", "model=mnist_sdn_8k", "model.net.input_size=700"], "700"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, words, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *([] if "--sizes" in arguments else [f"paths.output_dir={tmp_path}"])])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
