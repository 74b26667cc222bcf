"""Networks that train as one come to the numbers of `lhtx.train` on the same batches, whoever else is in the group."""

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from lhtx.checkpoints import load_checkpoint
from lhtx.compose import compose
from lhtx.evaluate import compose_evaluation, evaluate
from lhtx.fused import FusedTrainer
from lhtx.fused.member import Member
from lhtx.predict import predict
from lhtx.train import train

COSINE = "model.scheduler={_target_: torch.optim.lr_scheduler.CosineAnnealingLR, _partial_: true, T_max: 3}"
WARMUP = "model.scheduler={_target_: lhtx.schedules.warmup_cosine, _partial_: true, warmup: 0.3}"
PLATEAU = "model.scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, _partial_: true, patience: 0, threshold: 9.0}"
STEPS = "model.scheduler={_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 4, gamma: 0.5}"
SGD = (
    "+model.optimizer={_target_: torch.optim.SGD, _partial_: true, lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01}"
)
ADAM = "+model.optimizer={_target_: torch.optim.Adam, _partial_: true, lr: 0.003, betas: [0.8, 0.99], amsgrad: true}"
MEMBERS = [
    ["seed=1", "model.optimizer.lr=0.01", "model.optimizer.weight_decay=0.1", COSINE, "model.decay_vectors=false"],
    [
        "seed=2",
        "~model.optimizer",
        SGD,
        WARMUP,
        "model.scheduler_interval=step",
        "data.target_width=1.0",
        "trainer.gradient_clip_val=0.3",
    ],
    ["seed=3", "~model.optimizer", ADAM, PLATEAU, "data.target_width=2.0"],
]


def assert_close(one: dict[str, float], other: dict[str, float], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        both = math.isnan(one[name]) and math.isnan(other[name])
        assert both or one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([], id="by hand"),
        pytest.param(["+model.loss.label_smoothing={}"], id="vmap", marks=pytest.mark.slow),
    ],
)
def test_members_come_to_what_they_come_to_alone(digits, double, alone, last, distance, more):
    def config(place: int, name: str):
        smoothing = [text.format(0.1 * place) for text in more]
        return digits(f"{name}{place}", *double, *MEMBERS[place], *smoothing, "trainer.limit_train_batches=8")

    members = [config(place, "fused") for place in range(3 if not more else 2)]
    trainer = FusedTrainer(members)
    results = trainer.fit()
    assert trainer.by_hand == (not more)
    for place, member in enumerate(members):
        checkpoint, metrics = alone(config(place, "alone"))
        assert distance(last(member), checkpoint) < 1e-12
        assert_close(results[place], metrics, 1e-5)  # which both keep in single precision


@pytest.mark.slow
def test_batch_normalisation_is_each_member_s_own(digits, double, alone, last, distance):
    def config(place: int, name: str):
        more = [f"seed={place}", f"model.optimizer.lr={0.001 + 0.004 * place}", "trainer.limit_train_batches=8"]
        sizes = [f"model.net.lin{layer}_size=12" for layer in (1, 2, 3)]
        return digits(f"{name}{place}", *double, "model=digits_sdn", *sizes, *more)

    members = [config(place, "fused") for place in range(2)]
    FusedTrainer(members).fit()
    for place, member in enumerate(members):
        assert distance(last(member), alone(config(place, "alone"))[0]) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("digits_cnn", ["model.net.dropout=0.0", "model.net.conv1_channels=4", "model.net.conv2_channels=4"]),
        ("digits_vit", ["model.net.dropout=0.0", "model.net.embed_dim=16", "model.net.n_layers=1"]),
        ("digits_convnext", ["model.net.drop_path_rate=0.0"]),
        ("digits_mlp", ["~model.loss", "+model.loss={_target_: lhtx.losses.Ordinal, _partial_: true, alpha: {rate}}"]),
        ("digits_mlp", ["model.loss._target_=lhtx.losses.SoftTarget", "data.target_width={rate}"]),
        ("digits_mlp", ["model.loss._target_=lhtx.losses.WeightedCrossEntropy"]),
        ("digits_mlp", ["+model.loss.class_weights=[1,2,3,4,5,6,7,8,9,10]"]),
        (
            "digits_mlp",
            [
                "+model.net.head_kind=regression",
                "~model.loss",
                "+model.loss={_target_: lhtx.losses.NormalizedRegression, _partial_: true}",
                *("+model.loss.distance=huber", "+model.loss.huber_delta={rate}"),
            ],
        ),
        ("digits_mlp", ["data.auxiliary_features=[decay_time]", STEPS, "model.scheduler_interval=step"]),
    ],
)
def test_networks_losses_and_schedules(digits, double, alone, last, distance, model, more):
    def config(place: int, name: str):
        given = [text.replace("{rate}", str(0.1 + 0.2 * place)) for text in more]
        return compose_of(digits, f"{name}{place}", model, *double, f"seed={place}", "trainer.limit_train_batches=15", *given)

    members = [config(place, "fused") for place in range(2)]
    results = FusedTrainer(members).fit()
    for place, member in enumerate(members):
        checkpoint, metrics = alone(config(place, "alone"))
        assert distance(last(member), checkpoint) < {"digits_mlp": 1e-12, "digits_vit": 1e-11}.get(model, 1e-9)
        assert_close(results[place], metrics, 1e-4)


def compose_of(digits, name: str, model: str, *more: str):
    """A config of `digits` of another model, without the sizes of the MLP's layers."""
    cfg = digits(name)
    return compose(
        [
            *("data=digits", f"model={model}", "trainer=cpu", "logger=none", "threads=1", "data.seed=7"),
            *(f"paths.{key}={cfg.paths[key]}" for key in ("data_dir", "log_dir", "output_dir")),
            *("trainer.enable_progress_bar=false", "trainer.enable_model_summary=false", "trainer.max_epochs=1"),
            *("trainer.limit_val_batches=2", *more),
        ]
    )


def test_who_else_is_in_the_group_changes_nothing(digits, double, alone, last, distance):
    """Member 1 leaves after its first epoch, another one joins; 0 and 2 come to what they come to without either."""
    rates = {0: 0.0, 1: 0.2, 2: 0.4}

    def config(place: int, name: str, *more: str):
        own = [f"seed={place}", f"model.net.dropout={rates.get(place, 0.0)}", "trainer.max_epochs=3"]
        return digits(f"{name}{place}", *double, *own, *more)

    told: list[tuple[int, int]] = []
    joined = config(3, "group", "data.seed=99", "trainer.max_epochs=1")

    def report(reports):
        told.extend((number, epoch.epoch) for number, epoch in reports.items())
        if 1 in reports:
            assert trainer.add(joined) == 3
        return [1]

    members = [config(place, "group") for place in range(3)]
    trainer = FusedTrainer(members, report)
    results = trainer.fit()
    assert told == [(0, 1), (1, 1), (2, 1), (0, 2), (2, 2), (3, 1), (0, 3), (2, 3)]
    assert results.keys() == {0, 2, 3}
    assert last(members[1])["epoch"] == 0
    assert not (Path(members[1].paths.output_dir) / "metrics.json").exists()

    pair = [config(0, "pair"), config(2, "pair")]
    FusedTrainer(pair).fit()
    assert distance(last(members[0]), last(pair[0])) < 1e-12
    assert distance(last(members[2]), last(pair[1])) < 1e-12

    written = OmegaConf.load(Path(joined.paths.output_dir) / "config.yaml")
    assert (written.data.seed, written.data.first_order) == (7, 1)
    own, _ = alone(config(3, "alone", "trainer.max_epochs=1", "data.first_order=1"))
    assert distance(last(joined), own) < 1e-12


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "kill", [pytest.param((1, 1), marks=pytest.mark.slow), pytest.param((0, 2), marks=pytest.mark.slow), (1, 2)]
)
def test_a_killed_group_goes_on_to_the_same_numbers(digits, double, last, distance, kill, monkeypatch):
    """Killed before the checkpoint of one member is written, when the other's may be: they are then at different epochs."""

    def config(place: int, name: str, *more: str):
        return digits(f"{name}{place}", *double, f"seed={place}", "model.net.dropout=0.2", PLATEAU, *more)

    save = Member.save

    def killed(member):
        if (member.number, member.epochs) == kill:
            raise Killed
        save(member)

    trainer = FusedTrainer([config(place, "killed") for place in range(2)])
    with monkeypatch.context() as patch:
        patch.setattr(Member, "save", killed)
        with pytest.raises(Killed):
            trainer.fit()
    again = [config(place, "killed") for place in range(2)]
    paths = [Path(cfg.paths.output_dir) / "checkpoints" / "last.ckpt" for cfg in again]
    again = [config(p, "killed", *([f"ckpt_path={path}"] if path.exists() else [])) for p, path in enumerate(paths)]
    told = []

    def report(reports):
        told.extend((number, epoch.epoch, epoch.repeated) for number, epoch in reports.items())
        return []

    results = FusedTrainer(again, report).fit()
    whole = [config(place, "whole") for place in range(2)]
    expected = FusedTrainer(whole).fit()
    for place in range(2):
        assert distance(last(again[place]), last(whole[place])) < 1e-12
        assert_close(results[place], expected[place], 1e-6)
        epochs = [epoch for number, epoch, repeated in told if number == place and not repeated]
        begun = [epoch for number, epoch, repeated in told if number == place and repeated]
        assert begun + epochs == list(range(min(begun + epochs), 3))
    assert {number for number, _, repeated in told if repeated} == {p for p, path in enumerate(paths) if again[p].ckpt_path}


@pytest.mark.slow
def test_checkpoints_are_those_of_a_run_of_its_own(digits, double, alone, last, distance):
    def config(name: str, *more: str):
        return digits(name, *double, "seed=5", COSINE, *more)

    group = [config("fused"), digits("other", *double, "seed=6")]
    results = FusedTrainer(group).fit()
    ours = last(group[0])
    theirs, _ = alone(config("alone"))
    assert ours.keys() == theirs.keys()
    assert ours["loops"] == theirs["loops"]
    assert ours["lr_schedulers"] == theirs["lr_schedulers"]
    assert ours["callbacks"].keys() == theirs["callbacks"].keys()
    assert {name: len(each["param_groups"]) for name, each in enumerate(ours["optimizer_states"])} == {0: 1}
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in ours["state_dict"].values())

    # `lhtx.train` goes on from it, and a group from a run of its own: three epochs in one piece.
    whole, _ = alone(config("whole", "trainer.max_epochs=3"))
    path = {
        name: f"ckpt_path={Path(group[0].paths.output_dir).parent / name / 'checkpoints' / 'last.ckpt'}"
        for name in ("fused", "alone")
    }
    further, _ = alone(config("further", "trainer.max_epochs=3", path["fused"]))
    assert distance(further, whole) < 1e-6  # Lightning restores weights in single precision, and then makes them double
    fused = config("fused_further", "trainer.max_epochs=3", path["alone"])
    FusedTrainer([fused]).fit()
    assert distance(last(fused), whole) < 1e-12

    best = Path(group[0].paths.output_dir) / "checkpoints" / "best.ckpt"
    quiet = [f"ckpt_path={best}", f"paths.output_dir={best.parent / 'evaluated'}", "logger=none", "trainer.precision=64-true"]
    measured = evaluate(compose_evaluation(quiet))
    assert_close(measured, {name: value for name, value in results[0].items() if name.startswith("test/")}, 1e-6)


@pytest.mark.slow
def test_best_and_last_are_kept_as_by_lightning(digits, alone, last):
    """Over epochs of which not every one is the best; in single precision, where the metrics are equal all the same."""
    more = ["seed=3", "model.optimizer.lr=0.05", "trainer.max_epochs=5", "trainer.limit_val_batches=null"]
    group = [digits("fused", *more), digits("other", "seed=4", "trainer.limit_val_batches=null")]
    FusedTrainer(group).fit()
    theirs, _ = alone(digits("alone", *more))
    best = [
        load_checkpoint(Path(cfg.paths.output_dir) / "checkpoints" / "best.ckpt")["epoch"]
        for cfg in (group[0], digits("alone", *more))
    ]
    assert best[0] == best[1]
    ours = last(group[0])
    key = next(name for name in ours["callbacks"] if "val/avg_acc" in name)
    assert ours["callbacks"][key]["best_model_score"] == pytest.approx(float(theirs["callbacks"][key]["best_model_score"]))
    assert ours["epoch"] == 4


@pytest.mark.slow
def test_single_precision_with_batch_normalisation_has_the_same_distribution(digits, alone):
    """Rounding alone takes such networks apart; over eight seeds the accuracies are the same within their spread."""
    more = ["trainer.limit_train_batches=null", "trainer.limit_val_batches=null", "trainer.max_epochs=3"]

    def config(place: int, name: str):
        return compose_of(lambda n: digits(n), f"{name}{place}", "digits_sdn", f"seed={place}", *more)

    fused = FusedTrainer([config(place, "fused") for place in range(8)]).fit()
    own = [alone(config(place, "alone"))[1] for place in range(8)]
    a = torch.tensor([fused[place]["val/loss"] for place in range(8)])
    b = torch.tensor([each["val/loss"] for each in own])
    spread = torch.cat([a, b]).std() / 8**0.5
    assert abs(a.mean() - b.mean()) < 2 * spread
    assert abs(a - b).max() < 0.1 * b.mean()


@pytest.mark.slow
def test_predictions_are_read_from_a_member_s_checkpoint(digits):
    member = digits("member", "seed=1")
    FusedTrainer([member, digits("other", "seed=2")]).fit()
    path = Path(member.paths.output_dir) / "checkpoints" / "best.ckpt"
    cfg = compose_evaluation([f"ckpt_path={path}", f"paths.output_dir={path.parent / 'predicted'}"], "predict")
    assert len(predict(cfg)) > 0


@pytest.mark.slow
def test_loggers_get_every_epoch(digits):
    member = digits("member", "seed=1", "logger=csv")
    FusedTrainer([member, digits("other", "seed=2")]).fit()
    lines = (Path(member.paths.output_dir) / "csv" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 4  # names, two epochs, the test
    assert {"epoch", "step", "val/loss", "train/loss", "grad/evidence", "test/loss"} <= set(lines[0].split(","))
    again = digits(
        "member", "seed=1", "logger=csv", "trainer.max_epochs=3", f"ckpt_path={member.paths.output_dir}/checkpoints/last.ckpt"
    )
    FusedTrainer([again]).fit()
    lines = (Path(member.paths.output_dir) / "csv" / "metrics.csv").read_text().splitlines()
    assert len(lines) == 5 or len(lines) == 6


@pytest.mark.slow
def test_a_run_by_hand_of_a_member_s_config_gives_its_numbers(digits, double, last, distance):
    """Whatever the group changed stands in its `config.yaml`."""
    member = digits("member", *double, "seed=1", "data.seed=5")
    FusedTrainer([digits("first", *double, "seed=2"), member]).fit()
    found = last(member)
    cfg = OmegaConf.load(Path(member.paths.output_dir) / "config.yaml")
    assert cfg.data.seed == 7
    train(OmegaConf.merge(digits("member", *double), cfg))
    assert distance(last(member), found) < 1e-12
