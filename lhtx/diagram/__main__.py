"""The command line: `python -m lhtx.diagram [overrides]` for one network, `--sizes` for the size of every model there is.

Trains nothing, allocates no weight, and makes or fetches no dataset that can be described without its files.
"""

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning import LightningModule
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lhtx.compose import CONFIGS, build_task, check_network, compose, configure
from lhtx.config_errors import near
from lhtx.diagram.drawing import draw, sizes
from lhtx.diagram.trace import Trace, trace
from lhtx.errors import USER_ERRORS, ConfigError, DatasetError
from lhtx.files import check_file, ensure_directory, write_atomically
from lhtx.runs import fail

FILE = "diagram.svg"


def build(overrides: Sequence[str]) -> tuple[DictConfig, LightningModule]:
    """The configured config that `overrides` make, and its task on the meta device. Raises ConfigError, DatasetError."""
    cfg = compose(overrides)
    try:
        cfg = configure(cfg, prepare=False)
    except DatasetError:  # only its files can describe it, and they are not there yet
        cfg = configure(cfg)
    with torch.device("meta"):
        return cfg, build_task(cfg)


def trace_config(overrides: Sequence[str]) -> tuple[DictConfig, Trace]:
    """The network of a config, called once on its dataset's shape. Raises ConfigError where it does not take that."""
    cfg, task = build(overrides)
    shape = (cfg.dataset.channels, cfg.dataset.height, cfg.dataset.width)
    check_network(cfg, task)
    return cfg, trace(task.net, shape, cfg.dataset.auxiliary_size and task.net.auxiliary_input_size)


def dataset_line(cfg: DictConfig) -> str:
    """The dataset of a configured config and what a sample of it is: `mnist: 1 × 28 × 28; heads digit (10 classes)`."""
    data = cfg.dataset
    features = f" and {data.auxiliary_size} auxiliary features" if data.auxiliary_size else ""
    heads = ", ".join(f"{name} ({classes} classes)" for name, classes in data.head_sizes.items())
    return f"{data.name}: {sizes([(data.channels, data.height, data.width)])}{features}; heads {heads}"


def table_of(traced: Trace, depth: int) -> Table:
    """The modules down to `depth` levels as a table, and the total."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("module", "class"):
        table.add_column(heading, overflow="fold")
    table.add_column("output of a sample", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for name, shape in traced.inputs.items():
        table.add_row(Text(name), Text("input", style="dim"), sizes([shape]), "")
    for part in traced.parts:
        if part.depth <= depth:
            table.add_row(Text("  " * (part.depth - 1) + part.name), part.kind, sizes(part.shapes), f"{part.parameters:,}")
    for name, shape in traced.loose.items():
        if "." not in name:
            table.add_row(Text(name), Text("parameter", style="dim"), sizes([shape]), f"{torch.Size(shape).numel():,}")
    table.add_row(traced.network, "", "", f"{traced.parameters:,}", style="bold")
    return table


def model_sizes(pattern: str = "*") -> list[tuple[str, str, str, int]]:
    """(model, network, data, parameters) of the options of the group `model`, on the dataset that each name begins with.

    A dataset is described without its files; a VIMH dataset, which cannot be, is a few generated samples of the recipe in
    `data=vimh`, in a temporary directory. A model whose name begins with no dataset's is left out.

    Args:
        pattern: a shell pattern of the models' names.

    Raises:
        ConfigError: no model's name is like that.
    """
    options = {group: sorted(file.stem for file in (CONFIGS / group).glob("[!_]*.yaml")) for group in ("data", "model")}
    models = [model for model in options["model"] if fnmatchcase(model, pattern)]
    if not models:
        raise ConfigError(f"no model is called like {pattern!r}. {near(pattern, options['model'])}")
    rows = []
    with TemporaryDirectory() as directory:
        for model in models:
            named = [data for data in options["data"] if model.startswith(f"{data}_")]
            if not named:
                continue
            data = max(named, key=len)
            small = ["data.generate.size=16"] if data == "vimh" else []
            _, task = build([f"data={data}", f"model={model}", f"paths.data_dir={directory}", *small])
            parameters = sum(parameter.numel() for parameter in task.net.parameters())
            rows.append((model, type(task.net).__name__, data, parameters))
    return rows


def markdown(rows: Sequence[tuple[str, str, str, int]]) -> str:
    """The sizes as a Markdown table."""
    lines = ["| model | network | data | parameters |", "| --- | --- | --- | ---: |"]
    return "\n".join([*lines, *(f"| `{model}` | `{net}` | `{data}` | {count:,} |" for model, net, data, count in rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0: shown; 2: something for the user to put right."""
    parser = argparse.ArgumentParser(
        prog="python -m lhtx.diagram",
        description=f"A table of a network's modules, and a picture of its blocks: {FILE} in the output directory.",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for lhtx.train, such as model=vimh_cnn")
    parser.add_argument("--depth", type=int, default=2, metavar="N", help="levels of modules in the table (2)")
    parser.add_argument(
        "--sizes",
        nargs="?",
        const="*",
        metavar="PATTERN",
        help="instead: the size of every model, or of those with such a name, as a Markdown table",
    )
    options = parser.parse_intermixed_args(arguments)
    try:
        if options.sizes:
            if options.overrides:
                raise ConfigError(f"--sizes takes the models as they are; leave out {' '.join(options.overrides)}")
            print(markdown(model_sizes(options.sizes)))
            return 0
        if options.depth < 1:
            raise ConfigError(f"--depth is {options.depth}; expected 1 or more")
        cfg, traced = trace_config(["task_name=diagram", *options.overrides])
        file = Path(cfg.paths.output_dir) / FILE
        check_file(ensure_directory(file.parent, "paths.output_dir") / FILE, "the diagram")
        write_atomically(file, draw(traced, dataset_line(cfg)))
    except USER_ERRORS as error:
        fail(error)
    print(f"{dataset_line(cfg)}\n")
    wide = None if sys.stdout.isatty() else 1000  # a file or a pipe has no edge at which to fold
    Console(highlight=False, markup=False, width=wide).print(table_of(traced, options.depth))
    print(f"\ndiagram: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
