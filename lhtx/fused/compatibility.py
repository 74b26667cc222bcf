"""Which networks can train as one, and why others cannot: from their configs first, then from what these build."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from lhtx.accelerators import choose
from lhtx.callbacks import (
    GradientStatistics,
    LoggedMetrics,
    NetworkSummary,
    PlateauState,
    RandomState,
    StepLog,
    TrainingProgress,
)
from lhtx.compose import build_task, configure, parts_of, resolved, target_class
from lhtx.fused.by_hand import NoRule
from lhtx.fused.noise import Noise
from lhtx.fused.optimizers import refusal
from lhtx.fused.stack import Stack
from lhtx.fused.step import FusedStep, Numbers
from lhtx.runs import seed
from lhtx.targets import soft_targets
from lhtx.tasks import MultiheadTask

OWN = (
    *("seed", "tags", "task_name", "ckpt_path", "paths", "logger", "extras", "optimized_metric", "optimized_mode", "test"),
    *("data.seed", "data.first_order", "data.target_width", "dataset.target_width"),
    *("trainer.max_epochs", "trainer.default_root_dir", "trainer.gradient_clip_val", "trainer.gradient_clip_algorithm"),
    *("model.target_width", "model.target_shape", "model.head_weights", "model.loss", "model.net"),
    *("model.optimizer", "model.scheduler", "model.scheduler_interval", "model.decay_vectors"),
    *("callbacks.random_state.seed", "callbacks.best", "callbacks.last"),
)
"""Keys that each member may have its own of. Of `model.net` and `model.loss`, single numbers that are no sizes; see `alike`."""
CALLBACKS = (GradientStatistics, LoggedMetrics, NetworkSummary, PlateauState, RandomState, StepLog, TrainingProgress)
TRAINER: Mapping[str, tuple[Any, ...]] = {
    "devices": (1, "1"),
    "num_nodes": (1,),
    "precision": ("32-true", "32", 32, "64-true", "64", 64),
    "max_steps": (-1,),
    "accumulate_grad_batches": (1,),
    "detect_anomaly": (False,),
    "fast_dev_run": (False,),
    "profiler": (None,),
    "val_check_interval": (None, 1.0),
    "strategy": ("auto",),
    "sync_batchnorm": (False,),
    "max_time": (None,),
    "min_steps": (None,),
    "barebones": (False,),
}
"""Settings of the trainer → what a group can have there."""
KNOWN = {
    *("_target_", "default_root_dir", "accelerator", "use_distributed_sampler", "max_epochs", "min_epochs"),
    *("check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "gradient_clip_val", "gradient_clip_algorithm"),
    *("deterministic", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches"),
}
"""Settings of the trainer that a group takes as they are, or that only show something."""
SAVER = {"save_top_k": 1, "save_on_train_epoch_end": True}
SAVER_KNOWN = {"_target_", "dirpath", "filename", "monitor", "mode", "enable_version_counter", *SAVER}


def can_fuse(configs: Sequence[DictConfig]) -> list[str]:
    """Why the networks of `configs` cannot train as one; empty if they can.

    Args:
        configs: composed. The dataset is described, and made or fetched if it is missing.

    Returns:
        reasons, each with the config's key or the module, what was found and what is possible.

    Raises:
        ConfigError, DatasetError: a config that could not train by itself either.
    """
    configs = [configure(cfg) for cfg in configs]
    if reasons := differences(configs):
        return reasons
    with torch.random.fork_rng():
        tasks = []
        for cfg in configs:
            seed(cfg)
            tasks.append(build_task(cfg))
        reasons, numbers = alike(tasks)
        return reasons or trial(tasks, numbers, configs[0].dataset)[0]


def differences(configs: Sequence[DictConfig]) -> list[str]:
    """The reasons that configured configs give by themselves."""
    reasons = []
    for cfg in configs:
        reasons += [reason for reason in _refused(cfg) if reason not in reasons]
    plain = [dict(_flat(OmegaConf.to_container(resolved(cfg)))) for cfg in configs]
    for key in dict.fromkeys(key for each in plain for key in each):
        values = [each.get(key) for each in plain]
        different = list(dict.fromkeys(map(repr, values)))
        if len(different) > 1 and not _may_differ(key, values):
            shown = ", ".join(different[:3]) + (", …" if len(different) > 3 else "")
            reasons.append(f"{key} differs: {shown}; networks that train as one share it")
    return reasons


def _flat(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _may_differ(key: str, values: Sequence[Any]) -> bool:
    if key.startswith(("model.net.", "model.loss.", "model.head_weights.")):
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        return len(numbers) == len(values) and any(isinstance(value, float) for value in numbers)
    return any(key == own or key.startswith(f"{own}.") for own in OWN)


def _refused(cfg: DictConfig) -> Iterator[str]:
    """What in one config no group can have."""
    if not cfg.train:
        yield "train is false: there is nothing to train together"
    if cfg.get("restore") and cfg.restore.hyperparameters != "checkpoint":
        yield f"restore.hyperparameters is {cfg.restore.hyperparameters}; a group goes on with those of the checkpoints"
    if target_class(cfg, "model") is not MultiheadTask:
        yield f"model._target_ is {cfg.model._target_}; expected lhtx.tasks.MultiheadTask"
    if cfg.model.get("compile"):
        yield "model.compile is true; expected false"
    for key, value in cfg.trainer.items():
        if key in TRAINER and value not in TRAINER[key]:
            yield f"trainer.{key} is {value}; expected {' or '.join(map(str, dict.fromkeys(TRAINER[key])))}"
        elif key not in TRAINER and key not in KNOWN and value is not None:
            yield f"trainer.{key} is set, which is not looked at when networks train as one"
    epochs = cfg.trainer.max_epochs
    if not isinstance(epochs, int) or epochs < 1:
        yield f"trainer.max_epochs is {epochs}; expected 1 or more"
    if choose(str(cfg.trainer.get("accelerator"))) == "mps":
        yield "trainer.accelerator is mps; expected cpu or gpu"
    for name in parts_of(cfg, "callbacks"):
        yield from _refused_callback(cfg, name)


def _refused_callback(cfg: DictConfig, name: str) -> Iterator[str]:
    kind, node = target_class(cfg, f"callbacks.{name}"), cfg.callbacks[name]
    if kind.__name__ == "ModelCheckpoint":
        wrong = [key for key, value in SAVER.items() if node.get(key) != value]
        wrong += [key for key, value in node.items() if key not in SAVER_KNOWN and value is not None]
        if wrong or "{" in str(node.get("filename")):
            yield f"callbacks.{name} ({', '.join(wrong) or 'filename'}): a group keeps one file at the end of each epoch"
    elif kind not in CALLBACKS:
        yield f"callbacks.{name} is a {kind.__name__}, which needs a Trainer of its own; leave it out"
    elif kind is GradientStatistics and node.get("histograms"):
        yield f"callbacks.{name}.histograms is true; a group has none"


def harmonise(tasks: Sequence[LightningModule]) -> None:
    """Give tasks whose target width is 0 their one-hot distributions where others have soft targets: the same losses."""
    for objectives in zip(*(task.objectives for task in tasks), strict=True):
        tables = [each.soft_targets for each in objectives]
        if any(table is not None for table in tables) and any(table is None for table in tables):
            for each in objectives:
                if each.soft_targets is None and getattr(each.loss, "class_weights", None) is None:
                    some = next(table for table in tables if table is not None)
                    classes = each.head.spec.classes
                    each.soft_targets = soft_targets(torch.arange(classes), classes, 0.0).to(some)


def alike(tasks: Sequence[LightningModule]) -> tuple[list[str], Numbers]:
    """Why tasks cannot be one, module by module; and the numbers in which they may differ, by module and attribute."""
    harmonise(tasks)
    reasons: list[str] = []
    numbers: dict[tuple[str, str], list[float]] = {}
    modules = [dict(task.named_modules()) for task in tasks]
    if any(each.keys() != modules[0].keys() for each in modules):
        return ["the networks differ in their modules"], {}
    for kind in ("named_parameters", "named_buffers"):
        shapes = [{name: tuple(each.shape) for name, each in getattr(task, kind)()} for task in tasks]
        for name in dict.fromkeys(name for each in shapes for name in each):
            found = list(dict.fromkeys(each.get(name) for each in shapes))
            if len(found) > 1:
                reasons.append(f"{name} has the shapes {', '.join(map(str, found))}")
    for name, module in modules[0].items():
        if not name.startswith(("net", "objectives")):
            continue
        parts = [each[name] for each in modules]
        if len({type(part) for part in parts}) > 1:
            reasons.append(f"{name} is a {', a '.join(dict.fromkeys(type(part).__name__ for part in parts))}")
            continue
        for attribute in [key for key in vars(module) if key not in _MODULE]:
            values = [vars(part).get(attribute) for part in parts]
            if all(_same(value, values[0]) for value in values[1:]):
                continue
            if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) and float in map(type, values):
                numbers[name, attribute] = [float(value) for value in values]
            else:
                shown = ", ".join(dict.fromkeys(repr(value)[:40] for value in values[:4]))
                reasons.append(f"{name}.{attribute} differs: {shown}")
    reasons += [f"model.optimizer: {reason}" for reason in dict.fromkeys(refusal(_optimizer(task)) for task in tasks) if reason]
    return reasons, numbers


_MODULE = frozenset(vars(nn.Module()))


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor) or isinstance(other, Tensor):
        return isinstance(value, Tensor) and isinstance(other, Tensor) and torch.equal(value, other)
    return type(value) is type(other) and bool(value == other)


def _optimizer(task: LightningModule) -> Optimizer:
    built = task.configure_optimizers()
    return built["optimizer"] if isinstance(built, dict) else built


def trial(tasks: Sequence[LightningModule], numbers: Numbers, dataset: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Tries tasks that are `alike` on a few made-up samples, together and each alone; the tasks stay as they are.

    Args:
        tasks: on their device, in their precision.
        numbers: in which they differ.
        dataset: the description that a configured config has, for the shapes.

    Returns:
        the reasons why they cannot be one, and whether they can do without vmap.
    """
    some = next(tasks[0].parameters())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        batch = {
            "image": torch.randn(4, dataset["channels"], dataset["height"], dataset["width"]).to(some),
            "index": torch.stack([torch.randint(head.spec.classes, (4,)) for head in tasks[0].heads], 1).to(some.device),
            "value": torch.rand(4, len(tasks[0].heads)).to(some),
            "auxiliary": torch.randn(4, dataset["auxiliary_size"]).to(some),
        }
    alone = [_loss_alone(task, batch) for task in tasks]
    net, why = type(tasks[0].net).__name__, ""
    for by_hand in (True, False):
        copies = copy.deepcopy(list(tasks))
        stack, noise = Stack(copies), Noise(some.device)
        noise.begin([[place] for place in range(len(copies))])
        step = FusedStep(copies[0], numbers, noise, by_hand)
        try:
            with torch.no_grad():
                together = step(stack, batch, training=False).loss
            stack.gradients(step(stack, batch, training=True).loss)
        except NoRule:
            continue
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # whatever the code of a network does not stand
            why = str(error).splitlines()[0]
            continue
        if torch.allclose(together, torch.stack(alone), rtol=1e-3, atol=1e-5, equal_nan=True):
            return [], by_hand
        why = "the losses differ from those of each network alone"
    differing = f" (with another {', '.join('.'.join(place) for place in numbers)} each)" if numbers else ""
    return [f"model.net, {net}{differing}, does not run for several networks at once: {why}"], False


@torch.no_grad()
def _loss_alone(task: LightningModule, batch: Mapping[str, Tensor]) -> Tensor:
    own = copy.deepcopy(task).eval()
    return own.training_step(batch, 0)
