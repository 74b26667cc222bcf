"""The base of all datamodules, by a dataset made of two methods: what a batch holds, when it is augmented, what is refused."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator, MPSAccelerator
from torch import nn

from lhtx.callbacks import RandomState
from lhtx.data import DataSpec, HeadSpec, ImageDataModule, ImageInfo, Part
from lhtx.errors import CheckpointError, ConfigError, DatasetError

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 3, 6, 6), dtype=np.uint8)
SIDES = np.arange(50) % 2
SHADES = np.arange(50) % 5


class Toy(ImageDataModule):
    """40 train and 10 test images with two labels."""

    def describe(self) -> ImageInfo:
        names = {"side": ["left", "right"], "shade": ["black", "dark", "grey", "light", "white"]}
        return ImageInfo.of_classes("toy", (3, 6, 6), names)

    def load(self) -> list[Part]:
        parts = [(slice(40, 50), True), (slice(40), False)]
        return [Part(IMAGES[of], {"side": SIDES[of], "shade": SHADES[of]}, test=test) for of, test in parts]


def _ready(kind: type[Toy] = Toy, **options) -> Toy:
    datamodule = kind(**options)
    datamodule.setup()
    return datamodule


def _batch(datamodule: Toy, part: str = "test") -> dict[str, torch.Tensor]:
    loader = getattr(datamodule, f"{part}_dataloader")()
    batches = [datamodule.on_after_batch_transfer(batch, 0) for batch in loader]
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_a_nominal_label_is_its_index_and_its_share_of_the_classes() -> None:
    batch = _batch(_ready(use_random_split=False, normalisation="none"))
    assert batch["index"].tolist() == np.stack([SIDES, SHADES], axis=1)[40:].tolist()
    assert torch.equal(batch["value"], batch["index"] / torch.tensor([1, 4]))
    assert np.allclose(batch["image"], IMAGES[40:] / 255)
    assert {key: value.dtype for key, value in batch.items()} == {
        "image": torch.float32,
        "index": torch.int64,
        "value": torch.float32,
    }


def test_the_spec_names_the_classes_of_the_chosen_heads() -> None:
    shades = ["black", "dark", "grey", "light", "white"]
    spec = Toy(heads=["shade"], channel_selection=["R", "B"]).spec
    assert spec == DataSpec("toy", 2, 6, 6, {"shade": HeadSpec(5, 0, 4, 1)}, 0, 0.0, {"shade": shades})
    assert spec.as_config()["class_names"] == {"shade": shades}
    assert list(Toy().spec.class_names) == ["side", "shade"]


def test_the_test_file_serves_the_splits_that_ask_for_it() -> None:
    sizes = {}
    for name, options in {"random": {}, "file": {"use_random_split": False}, "coverage": {"coverage_mode": True}}.items():
        split = _ready(**options).split
        sizes[name] = (len(split.train), len(split.validation), len(split.test))
    assert sizes == {"random": (28, 8, 4), "file": (36, 4, 10), "coverage": (45, 3, 2)}
    assert _ready(use_random_split=False).split.test.tolist() == list(range(40, 50))


def test_constants_normalise_the_channels_that_they_belong_to() -> None:
    constants = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 1.0, 2.0]}
    batch = _batch(_ready(use_random_split=False, normalisation=constants, channel_selection=["B", "R"]))
    expected = (IMAGES[40:, [0, 2]] / 255 - np.array([0.1, 0.3])[:, None, None]) / np.array([0.5, 2.0])[:, None, None]
    assert np.allclose(batch["image"], expected, atol=1e-5)


def test_every_normalisation_is_the_same_in_memory_and_streamed() -> None:
    for setting in ("train", "none", {"mean": 0.5, "std": 0.5}):
        for one, other in zip(
            *(_batch(_ready(normalisation=setting, in_memory=there), "val").values() for there in (True, False)), strict=True
        ):
            assert torch.equal(one, other)


def _trainer(**state: object) -> SimpleNamespace:
    """What the datamodule asks of its trainer."""
    usual = {"training": True, "global_rank": 0, "world_size": 1, "accelerator": CPUAccelerator(), "precision": "32-true"}
    return SimpleNamespace(**usual | state)


def test_images_are_augmented_while_training_alone() -> None:
    options = {"augmentation": {"crop_padding": 2, "flip": True, "cutout": 3}, "batch_size": 50}
    plain, datamodule = _batch(_ready()), _ready(**options)
    for trainer in (None, _trainer(training=False)):
        datamodule.trainer = trainer
        assert torch.equal(_batch(datamodule)["image"], plain["image"])
    datamodule.trainer = _trainer()
    torch.manual_seed(0)
    changed = _batch(datamodule)
    assert not torch.equal(changed["image"], plain["image"])
    assert torch.equal(changed["index"], plain["index"])
    torch.manual_seed(0)
    assert torch.equal(_batch(datamodule)["image"], changed["image"])


def test_images_are_as_precise_as_the_network() -> None:
    datamodule = _ready()
    for precision, kind in (("64-true", torch.float64), ("32-true", torch.float32), ("bf16-mixed", torch.float32)):
        datamodule.trainer = _trainer(training=False, precision=precision)
        assert _batch(datamodule)["image"].dtype == kind


def test_the_first_epoch_takes_the_order_of_its_number() -> None:
    early, late = _ready(seed=3), _ready(seed=3, first_order=2)
    orders = [datamodule.train_dataloader().sampler for datamodule in (early, late)]
    orders[0].set_epoch(5)
    orders[1].set_epoch(3)
    assert torch.equal(torch.cat(list(orders[0])), torch.cat(list(orders[1])))
    orders[0].set_epoch(3)
    assert not torch.equal(torch.cat(list(orders[0])), torch.cat(list(orders[1])))


def test_black_moves_in_and_the_mean_is_cut_out() -> None:
    options = {"normalisation": {"mean": 0.25, "std": 0.5}, "batch_size": 50}
    moved, covered = (_ready(augmentation=a, **options) for a in ({"crop_padding": 5}, {"cutout": 5}))
    moved.trainer = covered.trainer = _trainer()
    black = -0.25 / 0.5
    assert (_batch(moved, "train")["image"] == black).float().mean() > 0.3
    assert (_batch(covered, "train")["image"] == 0).float().mean() > 0.3


def test_processes_share_the_samples_of_an_epoch() -> None:
    parts = []
    for rank in (0, 1):
        datamodule = _ready(batch_size=7)
        datamodule.trainer = _trainer(global_rank=rank, world_size=2)
        parts.append(torch.cat(list(datamodule.train_dataloader().sampler)).tolist())
    assert len(parts[0]) == len(parts[1]) == 14
    assert sorted(parts[0] + parts[1]) == _ready().split.train.tolist()


@pytest.mark.parametrize(
    ("accelerator", "in_memory", "workers"), [(CPUAccelerator, False, 3), (MPSAccelerator, False, 0), (CPUAccelerator, True, 0)]
)
def test_workers_read_what_is_streamed_and_not_beside_mps(accelerator: type, in_memory: bool, workers: int) -> None:
    datamodule = _ready(num_workers=3, in_memory=in_memory)
    datamodule.trainer = _trainer(accelerator=accelerator.__new__(accelerator))
    assert datamodule.train_dataloader().num_workers == workers


def test_the_copy_to_a_device_is_waited_for_except_on_cuda() -> None:
    asked = []

    class Column(torch.Tensor):
        def to(self, device, non_blocking=False):  # type: ignore[override]
            asked.append((device.type, non_blocking))
            return self

    for device in ("mps", "cpu", "cuda"):
        Toy().transfer_batch_to_device({"image": torch.zeros(1).as_subclass(Column)}, torch.device(device), 0)
    assert asked == [("mps", False), ("cpu", False), ("cuda", True)]


class Brighter(Toy):
    """Toy under another class and with other images, whose own statistics would be others."""

    def load(self) -> list[Part]:
        return [Part((part.images // 3 + 150).astype(np.uint8), part.classes, test=part.test) for part in super().load()]


@pytest.mark.parametrize("before", [True, False])
def test_the_constants_of_a_trained_network_are_used_in_place_of_measured_ones(before: bool) -> None:
    options = {"auxiliary_features": ["decay_time"], "use_random_split": False}
    trained, other = _ready(**options), Brighter(**options)
    state = trained.state_dict()
    assert Toy(**options).state_dict() == {}
    if before:
        other.load_state_dict(state)
    other.setup()
    if not before:
        assert not torch.equal(other.state_dict()["input_constants"]["mean"], state["input_constants"]["mean"])
        other.load_state_dict(state)
    assert all(
        torch.equal(other.state_dict()["input_constants"][name], value) for name, value in state["input_constants"].items()
    )
    mean, deviation = (state["input_constants"][name].numpy()[:, None, None] for name in ("mean", "deviation"))
    batch, own = _batch(other), _batch(_ready(Brighter, **options))
    assert np.allclose(batch["image"], ((IMAGES[40:] // 3 + 150) / 255 - mean) / deviation, atol=1e-5)
    ratio = (batch["auxiliary"][1:] - batch["auxiliary"][:-1]) / (own["auxiliary"][1:] - own["auxiliary"][:-1])
    deviations = [
        each.state_dict()["input_constants"]["auxiliary_deviation"] for each in (_ready(Brighter, **options), trained)
    ]
    assert torch.allclose(ratio.nanmedian(dim=0).values, (deviations[0] / deviations[1]).float(), rtol=1e-3)


def test_constants_that_come_back_change_no_bit() -> None:
    options = {"auxiliary_features": ["decay_time"]}
    plain, again = _ready(**options), Toy(**options)
    again.load_state_dict(plain.state_dict())
    again.setup()
    again.load_state_dict(plain.state_dict())  # as Lightning does when it resumes
    one, other = _batch(plain), _batch(again)
    assert all(torch.equal(one[name], other[name]) for name in ("image", "index", "value", "auxiliary"))


def test_constants_of_other_channels_or_features_are_refused() -> None:
    state = _ready(channel_selection=["R", "G"]).state_dict()
    with pytest.raises(CheckpointError, match="reads 2 channels and 0 auxiliary features, and toy as configured has 3 and 0"):
        _ready().load_state_dict(state)
    with pytest.raises(CheckpointError, match="reads 3 channels and 0 auxiliary features, and toy as configured has 3 and 4"):
        _ready(auxiliary_features=["decay_time"]).load_state_dict(_ready().state_dict())


class _Recorder(lightning.LightningModule):
    """Trains a number, and keeps the images of every batch by epoch and phase."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: dict[tuple[str, int], list[torch.Tensor]] = {}

    def _keep(self, phase: str, batch: dict[str, torch.Tensor]) -> None:
        self.seen.setdefault((phase, self.current_epoch), []).append(batch["image"].clone())

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self._keep("train", batch)
        return (self.weight - batch["value"].mean()).square().sum() * torch.rand(())

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self._keep("val", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(epochs: int, root: Path, checkpoint: Path | None = None) -> tuple[_Recorder, lightning.Trainer]:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[RandomState(3)],
        num_sanity_val_steps=0,
        default_root_dir=root,
        **dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False),
    )
    module = _Recorder()
    datamodule = Toy(batch_size=9, augmentation={"crop_padding": 2, "flip": True, "cutout": 3})
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint)
    return module, trainer


def test_a_resumed_run_augments_as_the_uninterrupted_one(tmp_path: Path) -> None:
    whole, _ = _fit(4, tmp_path)
    _, trainer = _fit(2, tmp_path)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    torch.manual_seed(999)  # what was drawn in between does not matter
    resumed, _ = _fit(4, tmp_path, tmp_path / "two.ckpt")
    for epoch in (2, 3):
        for one, other in zip(whole.seen["train", epoch], resumed.seen["train", epoch], strict=True):
            assert torch.equal(one, other)
    assert torch.equal(whole.weight, resumed.weight)
    first, second = (torch.cat(whole.seen["train", epoch]).sum((1, 2, 3)).sort().values for epoch in (2, 3))
    assert not torch.allclose(first, second)  # the samples are the same, what was done to them is not
    validated = [torch.cat(whole.seen["val", epoch]) for epoch in range(4)]
    assert all(torch.equal(validated[0], other) for other in validated)


class _Wrong(Toy):
    """Toy, with something else for its first part."""

    part: Part

    def load(self) -> list[Part]:
        return [self.part]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Part(IMAGES[:, :2], {}), r"toy: images are uint8 \(50, 2, 6, 6\); expected uint8 \(N, 3, 6, 6\)"),
        (Part(IMAGES / 255, {}), r"toy: images are float64 \(50, 3, 6, 6\); expected uint8"),
        (Part(IMAGES, {"side": SIDES}), "toy: there are no labels of the head 'shade'; found side"),
        (Part(IMAGES, {"side": SIDES[1:], "shade": SHADES}), r"the labels of 'side' are int64 \(49,\); expected .* \(50,\)"),
        (Part(IMAGES, {"side": SIDES / 2, "shade": SHADES}), "the labels of 'side' are float64 .*; expected whole numbers"),
        (Part(IMAGES, {"side": SIDES, "shade": SHADES + 1}), "toy: sample 4 has the class 5 of 'shade'; expected 0 to 4"),
        (Part(IMAGES, {"side": SIDES - 1, "shade": SHADES}), "toy: sample 0 has the class -1 of 'side'; expected 0 to 1"),
    ],
)
def test_samples_that_are_not_as_described_are_refused(monkeypatch, part: Part, message: str) -> None:
    monkeypatch.setattr(_Wrong, "part", part, raising=False)
    with pytest.raises(DatasetError, match=message):
        _ready(_Wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": ["sied"]}, "heads: toy has no head 'sied'. Did you mean side\\? Accepted: shade, side."),
        ({"heads": []}, r"heads is \[\]; expected different heads among side, shade"),
        ({"augmentation": {"cutout": 6}}, "augmentation.cutout is 6, and the images are 6x6"),
    ],
)
def test_what_does_not_fit_the_dataset_is_refused_before_it_is_loaded(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _ = Toy(**options).spec
    with pytest.raises(ConfigError, match=message):
        _ready(**options)


def test_one_head_may_be_named_without_a_list() -> None:
    assert list(Toy(heads="side").spec.heads) == ["side"]


def test_a_dataset_needs_both_methods() -> None:
    with pytest.raises(TypeError, match="abstract method"):
        type("Half", (ImageDataModule,), {"load": Toy.load})()


def test_batches_reach_a_worker() -> None:
    datamodule = _ready(in_memory=False)
    again = pickle.loads(pickle.dumps(datamodule.val_dataloader().dataset))  # noqa: S301
    assert torch.equal(again[torch.arange(3)]["image"], torch.from_numpy(IMAGES[:3]))
