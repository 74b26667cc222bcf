"""What happens in a network, seen by calling it once: the shape that every module gives, and which block feeds which.

Works on the meta device, where nothing is computed. Knows nothing of configs, tables or pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lhtx.nets.fusion import AuxiliaryFusion
from lhtx.nets.heads import Heads

Shape = tuple[int, ...]
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Part:
    """A module of a network.

    Attributes:
        name: its place, such as `encoder.layers.0`.
        kind: its class.
        shapes: of its outputs without the batch, by head where it gives several; none if it was not called.
        parameters: of it and all that is in it.
    """

    name: str
    kind: str
    shapes: tuple[Shape, ...]
    parameters: int

    @property
    def depth(self) -> int:
        """1 for a child of the network, 2 for a child's child."""
        return self.name.count(".") + 1


@dataclass(frozen=True)
class Block:
    """A box of the picture: a part, and those after it in a row that give the same shape from as many parameters.

    Attributes:
        part: the first of them.
        inputs: names of the blocks, or `image` and `auxiliary`, that feed it.
        times: how many there are.
        last: the name of the last.
    """

    part: Part
    inputs: tuple[str, ...]
    times: int = 1
    last: str = ""

    @property
    def name(self) -> str:
        """Its place, or both ends of the row."""
        if not self.last:
            return self.part.name
        parent, _, own = self.last.rpartition(".")
        return f"{self.part.name} … {own if self.part.name.startswith(f'{parent}.') else self.last}"

    @property
    def parameters(self) -> int:
        """Of all repetitions."""
        return self.part.parameters * self.times


@dataclass(frozen=True)
class Trace:
    """A network that was called once.

    Attributes:
        network: its class.
        parameters: all of them.
        inputs: `image` and, where there is one, `auxiliary` → shape without the batch.
        parts: every module, in the order of `named_modules`.
        blocks: those with parameters, at the level where a network is usually drawn, in the order of their calls.
        loose: parameters that are in no block: name → shape.
    """

    network: str
    parameters: int
    inputs: Mapping[str, Shape]
    parts: tuple[Part, ...]
    blocks: tuple[Block, ...]
    loose: Mapping[str, Shape]


def trace(net: nn.Module, image: Shape, auxiliary: int = 0) -> Trace:
    """Calls `net` on two images of the meta device and notes what its modules do. `net` is on the meta device too.

    Which block feeds which is read off the graph that autograd keeps, so it holds for functional operations between the
    modules (pooling, concatenation, residual sums) as well.

    Args:
        net: with `forward(image, auxiliary)`, in evaluation mode afterwards.
        image: (C, H, W).
        auxiliary: the number of auxiliary features; 0 hands it none.

    Raises:
        ValueError: what the network itself raises for images or features that it does not take.
    """
    net.eval()
    inputs = {"image": torch.empty(2, *image, device="meta", requires_grad=True)}
    if auxiliary:
        inputs["auxiliary"] = torch.empty(2, auxiliary, device="meta", requires_grad=True)
    drawn = dict(_drawn(net, ""))
    calls: dict[str, tuple[list[Tensor], list[Tensor]]] = {}  # name → tensors in, tensors out; at the first call

    def note(name: str):
        def hook(_: nn.Module, given: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> None:
            calls.setdefault(name, (_tensors([*given, *keywords.values()]), _tensors(output)))

        return hook

    modules = {name: module for name, module in net.named_modules() if name}
    handles = [module.register_forward_hook(note(name), with_kwargs=True) for name, module in modules.items()]
    try:
        net(inputs["image"], inputs.get("auxiliary"))
    finally:
        for handle in handles:
            handle.remove()
    parts = {
        name: Part(
            name,
            type(module).__name__ if name not in drawn or type(module) is not nn.Sequential else _kinds(module),
            tuple(tuple(tensor.shape[1:]) for tensor in calls[name][1]) if name in calls else (),
            _count(module),
        )
        for name, module in modules.items()
    }
    blocks = _connect({name: calls[name] for name in calls if name in drawn and parts[name].parameters}, inputs)
    inside = {f"{name}.{own}" for name in blocks for own, _ in modules[name].named_parameters()}
    return Trace(
        network=type(net).__name__,
        parameters=_count(net),
        inputs={name: tuple(tensor.shape[1:]) for name, tensor in inputs.items()},
        parts=tuple(parts.values()),
        blocks=tuple(_collapse([Block(parts[name], feeding) for name, feeding in blocks.items()])),
        loose={name: tuple(tensor.shape) for name, tensor in net.named_parameters() if name not in inside},
    )


def _drawn(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules that make a block each: children, opened where they only hold blocks, join inputs or are the heads."""
    for name, child in module.named_children():
        if isinstance(child, Heads | AuxiliaryFusion) or _holds_blocks(child):
            yield from _drawn(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _holds_blocks(module: nn.Module) -> bool:
    """Whether it is, or directly has, a container of modules that have modules in them."""
    containers = [each for each in (module, *module.children()) if isinstance(each, _CONTAINERS)]
    return isinstance(module, nn.ModuleList | nn.ModuleDict) or any(
        any(True for _ in member.children()) for container in containers for member in container.children()
    )


def _connect(
    calls: Mapping[str, tuple[list[Tensor], list[Tensor]]], inputs: Mapping[str, Tensor]
) -> dict[str, tuple[str, ...]]:
    """Block → what feeds it: walks autograd's graph from its inputs back to the next outputs of blocks."""
    made = {tensor.grad_fn: name for name, (_, outputs) in calls.items() for tensor in outputs}
    feeding = {}
    for name, (given, _) in calls.items():
        found: dict[str, None] = {}
        waiting, seen = [], set()
        for tensor in given:
            found |= dict.fromkeys(key for key, source in inputs.items() if source is tensor)
            waiting.append(tensor.grad_fn)
        while waiting:
            node = waiting.pop(0)
            if node is None or node in seen:
                continue
            seen.add(node)
            if node in made:
                found[made[node]] = None
                continue
            variable = getattr(node, "variable", None)
            found |= dict.fromkeys(key for key, source in inputs.items() if source is variable)
            waiting += [previous for previous, _ in node.next_functions]
        feeding[name] = tuple(found)
    return feeding


def _collapse(blocks: Sequence[Block]) -> list[Block]:
    """Blocks that repeat in a chain, made one each; later ones are fed by it under its name."""
    names: dict[str, str] = {}
    kept: list[Block] = []
    for block in blocks:
        block = replace(block, inputs=tuple(dict.fromkeys(names.get(name, name) for name in block.inputs)))
        last = kept[-1] if kept else None
        alike = last and (last.part.kind, last.part.shapes, last.part.parameters) == (
            block.part.kind,
            block.part.shapes,
            block.part.parameters,
        )
        if last and alike and block.inputs == (last.part.name,):
            kept[-1] = replace(last, times=last.times + 1, last=block.part.name)
            names[block.part.name] = last.part.name
        else:
            kept.append(block)
    return kept


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in what a module took or gave, also those in dictionaries and lists."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return _tensors(list(value.values()))
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


def _kinds(module: nn.Module) -> str:
    return ", ".join(type(child).__name__ for child in module.children())


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
