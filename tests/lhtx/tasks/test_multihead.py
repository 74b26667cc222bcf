"""The task under a real trainer: what it logs, what it never does in a step, what survives a checkpoint."""

from functools import partial

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from omegaconf import OmegaConf
from torch import nn

from lhtx.errors import CheckpointError, ConfigError
from lhtx.losses import CrossEntropy, NormalizedRegression, Ordinal, WeightedCrossEntropy
from lhtx.nets import SimpleCNN, SimpleDenseNet, SimpleMLP
from lhtx.targets import gaussian_targets
from lhtx.tasks import MultiheadTask


def sizes(heads):
    return {name: head["classes"] for name, head in heads.items()}


def mlp(heads, **options):
    return SimpleMLP(64, 16, 16, 16, heads=sizes(heads), **options)


def cnn(heads, **options):
    return SimpleCNN(1, 4, 8, 16, input_size=8, heads=sizes(heads), **options)


class Logged(Checkpoint):
    """Collects every name that was logged, and each epoch's metrics; a `Checkpoint` is called after the task has logged."""

    def __init__(self):
        self.names, self.epochs = set(), []

    def on_train_epoch_end(self, trainer, pl_module):
        self.names |= set(trainer.callback_metrics)
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_test_end(self, trainer, pl_module):
        self.names |= set(trainer.callback_metrics)


CONFIGURATIONS = {
    "classification": (["note", "decay"], {}),
    "one_head": (["note"], {}),
    "ordinal": (["note", "decay"], {"loss": {"note": Ordinal, "decay": CrossEntropy}}),
    "regression": (["note", "decay"], {"loss": NormalizedRegression}),
    "one_regression": (["decay"], {"loss": NormalizedRegression}),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_metric_names_are_exactly_what_a_run_logs(name, heads, samples, loader, trainer):
    chosen, options = CONFIGURATIONS[name]
    heads = {head: heads[head] for head in chosen}
    kind = "regression" if options.get("loss") is NormalizedRegression else "classification"
    task = MultiheadTask(mlp(heads, head_kind=kind), heads, **options)
    names = task.metric_names()
    data, logged = loader(samples(40, heads)), Logged()
    run = trainer(callbacks=[logged])
    run.fit(task, data, data)
    (tested,) = run.test(task, data, verbose=False)
    assert logged.names == set(names)
    assert len(names) == len(set(names))
    assert set(tested) == {metric for metric in names if metric.startswith("test/")}
    assert {"train/loss", "val/loss", "test/loss", "val/avg_acc", "test/avg_acc", "val/acc_best"} <= set(names)
    assert ({"val/avg_mae", "val/mae_best", "test/avg_mae"} <= set(names)) == (name not in ("classification", "one_head"))
    assert ({"val/acc", "test/acc"} <= set(names)) == (len(heads) == 1)


@pytest.mark.parametrize("channels_last", [False, True])
def test_logged_values_are_those_of_the_whole_split(heads, samples, loader, trainer, channels_last):
    seed_everything(0)
    everything = samples(50, heads, auxiliary=3)
    task = MultiheadTask(
        cnn(heads, auxiliary_input_size=3), heads, target_width=1.0, head_weights={"note": 0.5}, channels_last=channels_last
    )
    (values,) = trainer().validate(task, loader(everything), verbose=False)
    with torch.no_grad():
        outputs = task.eval()(everything)
    expected = {}
    losses = []
    for column, (name, output) in enumerate(outputs.items()):
        index = everything["index"][:, column]
        targets = gaussian_targets(index, heads[name]["classes"], 1.0).double()
        losses.append(-(targets * output.double().log_softmax(dim=1)).sum(dim=1).mean())
        expected[f"val/{name}_acc"] = float((output.argmax(dim=1) == index).double().mean())
    expected["val/loss"] = float(0.5 * losses[0] + losses[1])
    expected["val/avg_acc"] = expected["val/acc_best"] = (expected["val/note_acc"] + expected["val/decay_acc"]) / 2
    assert values == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (SimpleMLP, {"target_width": 1.0}),
        (SimpleDenseNet, {"loss": Ordinal}),
        (SimpleCNN, {"channels_last": True}),
        (SimpleMLP, {"loss": NormalizedRegression}),
    ],
)
def test_no_step_waits_for_the_device(network, options, heads, samples):
    """On the meta device there are no numbers to read, so a step that asked for one would raise."""
    kind = "regression" if options.get("loss") is NormalizedRegression else "classification"
    inputs = {"input_size": 8, "auxiliary_input_size": 3} if network is SimpleCNN else {"input_size": 64}
    with torch.device("meta"):
        task = MultiheadTask(network(heads=sizes(heads), head_kind=kind, **inputs), heads, **options)
    batch = {name: tensor.to("meta") for name, tensor in samples(16, heads, auxiliary=3).items()}
    for index in range(2):
        task.training_step(batch, index).backward()
        task.validation_step(batch, index)
        task.test_step(batch, index)
    with pytest.raises((RuntimeError, NotImplementedError)):
        task.val_metrics.compute()


def test_nothing_is_logged_in_a_step(heads, samples, loader, trainer, monkeypatch):
    task, calls = MultiheadTask(mlp(heads), heads), []
    log = task.log_dict
    monkeypatch.setattr(task, "log_dict", lambda values, **options: calls.append(sorted(values)) or log(values, **options))
    data = loader(samples(100, heads))
    trainer(max_epochs=2).fit(task, data, data)
    assert sorted(name for names in calls for name in names) == sorted(
        2 * [name for name in task.metric_names() if not name.startswith("test/")]
    )


def test_the_task_learns(heads, samples, loader, trainer):
    seed_everything(0)
    del heads["decay"]
    task = MultiheadTask(mlp(heads), heads, optimizer=partial(torch.optim.AdamW, lr=1e-2))
    run = trainer(max_epochs=30)
    run.fit(task, loader(samples(400, heads), shuffle=True), loader(samples(200, heads, seed=1)))
    assert float(run.callback_metrics["val/acc_best"]) > 0.5  # chance is 1/12


def test_the_sanity_check_counts_for_nothing(heads, samples, loader, trainer):
    task, data, logged = MultiheadTask(mlp(heads), heads), loader(samples(40, heads)), Logged()

    def cheat(trainer_):
        if trainer_.sanity_checking:
            return {"loss": 0.0, "note_acc": 1.0, "decay_acc": 1.0, "avg_acc": 1.0}
        return None

    compute = task.val_metrics.compute
    run = trainer(num_sanity_val_steps=2, callbacks=[logged])
    task.val_metrics.compute = lambda: cheat(run) or compute()
    run.fit(task, data, data)
    assert logged.epochs[0]["val/acc_best"] == logged.epochs[0]["val/avg_acc"] < 1


def test_sanity_batches_do_not_leak_into_the_first_epoch(heads, samples, loader, trainer):
    everything = samples(40, heads)
    data, runs = loader(everything), []
    for steps in (0, 2):
        seed_everything(1)
        task, run = MultiheadTask(mlp(heads), heads), trainer(num_sanity_val_steps=steps)
        run.fit(task, data, data)
        runs.append({name: float(value) for name, value in run.callback_metrics.items()})
    assert runs[0] == runs[1]


def test_best_values_are_the_best_of_the_epochs(heads, samples, loader, trainer):
    seed_everything(0)
    logged = Logged()
    task = MultiheadTask(
        mlp(heads, head_kind="regression"),
        heads,
        loss=NormalizedRegression,
        optimizer=partial(torch.optim.SGD, lr=3.0),
    )
    trainer(max_epochs=6, callbacks=[logged]).fit(task, loader(samples(64, heads), True), loader(samples(64, heads, seed=1)))
    accuracies, errors = ([epoch[name] for epoch in logged.epochs] for name in ("val/avg_acc", "val/avg_mae"))
    assert accuracies != sorted(accuracies)  # else the last one would always be the best
    assert [epoch["val/acc_best"] for epoch in logged.epochs] == [max(accuracies[: n + 1]) for n in range(6)]
    assert [epoch["val/mae_best"] for epoch in logged.epochs] == [min(errors[: n + 1]) for n in range(6)]


def test_a_resumed_run_equals_the_uninterrupted_one(heads, samples, loader, trainer, tmp_path):
    train, val = samples(64, heads), samples(48, heads, seed=1)

    def fit(epochs, directory, **options):
        seed_everything(3)
        logged = Logged()
        checkpoint = ModelCheckpoint(tmp_path / directory, save_last=True, save_on_train_epoch_end=True)
        task = MultiheadTask(cnn(heads, dropout=0.0), heads, scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
        run = trainer(max_epochs=epochs, callbacks=[logged, checkpoint])
        run.fit(task, loader(train, shuffle=True), loader(val), weights_only=True, **options)
        return task, logged.epochs

    whole, epochs = fit(4, "whole")
    fit(2, "parts")
    resumed, rest = fit(4, "parts", ckpt_path=str(tmp_path / "parts" / "last.ckpt"))
    assert rest == epochs[2:]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_best_values_survive_a_checkpoint(heads):
    task, other = MultiheadTask(mlp(heads), heads), MultiheadTask(mlp(heads), heads)
    task._best["acc_best"] = 0.75
    checkpoint = {}
    task.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    assert other._best == {"acc_best": 0.75}
    with pytest.raises(CheckpointError, match="written by another task: its best_metrics are none, expected acc_best"):
        other.on_load_checkpoint({})
    regression = MultiheadTask(mlp(heads, head_kind="regression"), heads, loss=NormalizedRegression)
    with pytest.raises(CheckpointError, match="its best_metrics are acc_best, expected acc_best, mae_best"):
        regression.on_load_checkpoint(checkpoint)


def test_a_loss_that_is_not_finite_is_logged_as_it_is(heads, samples, loader, trainer):
    task, data = MultiheadTask(mlp(heads), heads), loader(samples(40, heads))
    nn.init.constant_(task.net.lin1.bias, torch.inf)
    run = trainer()
    run.fit(task, data, data)
    assert torch.isnan(run.callback_metrics["train/loss"])
    assert torch.isnan(run.callback_metrics["val/loss"])
    assert torch.isfinite(run.callback_metrics["val/acc_best"])


def test_it_takes_what_hydra_hands_it(heads, samples):
    config = OmegaConf.create({"heads": heads, "sizes": sizes(heads), "weights": {"note": 2}})
    task = MultiheadTask(
        SimpleMLP(64, heads=config.sizes),
        config.heads,
        loss=OmegaConf.create({"note": CrossEntropy, "decay": Ordinal}, flags={"allow_objects": True}),
        head_weights=config.weights,
    )
    assert torch.isfinite(task.training_step(samples(4, heads), 0))
    assert [objective.weight for objective in task.objectives] == [2.0, 1.0]


def test_the_optimizer_and_the_schedule_come_from_their_factories(heads):
    task = MultiheadTask(mlp(heads), heads, optimizer=partial(torch.optim.SGD, lr=0.3))
    optimizer = task.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert len(optimizer.param_groups[0]["params"]) == len(list(task.net.parameters()))
    task = MultiheadTask(mlp(heads), heads, scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=3))
    configured = task.configure_optimizers()
    assert configured["lr_scheduler"]["scheduler"].optimizer is configured["optimizer"]
    assert configured["lr_scheduler"]["monitor"] == "val/loss"


def test_compile_compiles_the_network_and_keeps_its_names(heads, samples, loader, trainer):
    task = MultiheadTask(mlp(heads), heads, compile=True)
    names, compiled = list(task.state_dict()), []
    task.net.compile = lambda: compiled.append(True)
    data = loader(samples(32, heads))
    run = trainer()
    run.fit(task, data, data)
    run.test(task, data, verbose=False)
    assert compiled == [True]
    assert list(task.state_dict()) == names


@pytest.mark.parametrize(
    ("loss", "width"), [(CrossEntropy, 0.0), (CrossEntropy, 1.0), (WeightedCrossEntropy, 0.0), (Ordinal, 0.0)]
)
def test_the_epoch_loss_with_class_weights_is_that_of_one_large_batch(heads, samples, loader, trainer, loss, width):
    weights = {"note": [*[1.0] * 10, 30.0, 1.0]}  # decay has none: its mean is a plain one
    loss = partial(loss, class_weights=weights, label_smoothing=0.1)
    task = MultiheadTask(mlp(heads), heads, width, loss=loss, head_weights={"note": 1.0, "decay": 1e-4})
    data = samples(40, heads)  # in batches of 16, 16 and 8
    assert (data["index"][:, 0] == 10).any()
    measured = trainer().test(task, loader(data), verbose=False)[0]
    with torch.no_grad():
        assert measured["test/loss"] == pytest.approx(float(task.training_step(data, 0)), rel=1e-5)


@pytest.mark.parametrize("loss", [CrossEntropy, Ordinal])
def test_a_network_whose_outputs_are_no_numbers_is_never_right(heads, samples, loader, trainer, loss):
    task = MultiheadTask(mlp(heads), heads, loss=loss)
    nn.init.constant_(next(iter(task.net.parameters())), torch.nan)
    data = samples(40, heads)
    data["index"].zero_()  # argmax takes the first NaN for the largest
    measured = trainer().test(task, loader(data), verbose=False)[0]
    assert [measured[f"test/{name}"] for name in ("note_acc", "decay_acc", "avg_acc")] == [0, 0, 0]


def test_networks_compile_without_a_graph_break(heads, samples):
    batch = samples(4, heads, auxiliary=3)
    network = cnn(heads, auxiliary_input_size=3).eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for name, output in network(batch["image"], batch["auxiliary"]).items():
        torch.testing.assert_close(compiled(batch["image"], batch["auxiliary"])[name], output)


def test_channels_last_changes_the_layout_and_not_the_result(heads, samples):
    batch, outputs = samples(8, heads), []
    for channels_last in (False, True):
        torch.manual_seed(0)
        task = MultiheadTask(cnn(heads, dropout=0.0), heads, channels_last=channels_last)
        outputs.append(task(batch)["decay"])
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert task.net.conv2.weight.is_contiguous(memory_format=layout)
    torch.testing.assert_close(*outputs)


def test_only_a_network_with_the_branch_sees_auxiliary_features(heads, samples):
    with_extra, without = samples(8, heads, auxiliary=3), samples(8, heads)
    MultiheadTask(cnn(heads), heads).training_step(with_extra, 0)
    task = MultiheadTask(cnn(heads, auxiliary_input_size=3), heads)
    task.training_step(with_extra, 0)
    with pytest.raises(ConfigError, match="the network takes 3 auxiliary features and the batch has none; choose"):
        task.training_step(without, 0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda heads: MultiheadTask(SimpleMLP(64, heads={"note": 12, "decay": 7}), heads),
            r"built for the heads \{'note': 12, 'decay': 7\} and the task has \{'note': 12, 'decay': 256\}",
        ),
        (
            lambda heads: MultiheadTask(nn.Linear(64, 4), heads),
            "Linear is no network of this task: it needs an attribute heads",
        ),
        (lambda heads: MultiheadTask(mlp(heads), heads, target_width=-1.0), "the target width is -1.0; expected"),
        (lambda heads: MultiheadTask(mlp(heads), heads, target_shape="box"), "unknown target shape 'box'. Accepted: gaussian"),
        (
            lambda heads: MultiheadTask(mlp(heads), heads, head_weights={"x": 1}),
            "'x', which is no head. The heads are: note, d",
        ),
        (lambda heads: MultiheadTask(mlp(heads), heads, loss=NormalizedRegression), "needs scalar and the network has head_ki"),
        (lambda heads: MultiheadTask(mlp(heads), heads, loss=Ordinal, target_width=2), "target_width is 2 and the loss is Ord"),
    ],
)
def test_parts_that_do_not_fit_are_refused(heads, build, message):
    with pytest.raises(ConfigError, match=message):
        build(heads)
