"""The datamodule: what a batch holds, how a dataset is split, loaded, streamed, made and refused."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lhtx.data import DataSpec, HeadSpec, VIMHDataModule
from lhtx.data.auxiliary import decay_time
from lhtx.data.dataset import open_dataset
from lhtx.data.parameters import class_index, dequantise
from lhtx.errors import ConfigError, DatasetError


def _ready(directory: Path, **options) -> VIMHDataModule:
    datamodule = VIMHDataModule(directory, **options)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def _batches(datamodule: VIMHDataModule, part: str = "train") -> list[dict[str, torch.Tensor]]:
    return [datamodule.on_after_batch_transfer(b, 0) for b in getattr(datamodule, f"{part}_dataloader")()]


def _all(datamodule: VIMHDataModule, part: str) -> dict[str, torch.Tensor]:
    batches = _batches(datamodule, part)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def test_a_batch_holds_what_the_records_hold(hand_made) -> None:
    directory, _, test = hand_made()
    datamodule = _ready(directory, use_random_split=False, normalisation="none")
    batch = _all(datamodule, "test")
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items()} == {
        "image": (torch.float32, (3, 3, 4, 5)),
        "index": (torch.int64, (3, 2)),
        "value": (torch.float32, (3, 2)),
    }
    assert np.allclose(batch["image"].numpy(), test["images"] / 255)
    assert np.allclose(batch["value"].numpy(), test["values"] / 255)
    pitch = class_index(dequantise(test["values"][:, 0], 0, 10), 0, 10, 2)
    assert batch["index"].tolist() == np.stack([pitch, test["values"][:, 1]], axis=1).tolist()
    assert len(datamodule.split.train) == 6


def test_images_are_bytes_until_they_are_on_the_device(vimh_dataset: Path) -> None:
    batch = next(iter(_ready(vimh_dataset).train_dataloader()))
    assert batch["image"].dtype == torch.uint8


def test_the_spec_tells_a_network_its_shape(vimh_dataset: Path) -> None:
    spec = VIMHDataModule(vimh_dataset, target_width=1.5, auxiliary_features=["decay_time"]).spec
    assert spec == DataSpec(
        vimh_dataset.name,
        3,
        32,
        32,
        {"note_number": HeadSpec(4, 48, 51, 1), "log10_decay_time": HeadSpec(3, -2, 0, 1)},
        4,
        1.5,
    )
    assert spec.as_config() == {
        "name": vimh_dataset.name,
        "channels": 3,
        "height": 32,
        "width": 32,
        "features": 3072,
        "heads": {
            "note_number": {"classes": 4, "minimum": 48.0, "maximum": 51.0, "step": 1.0},
            "log10_decay_time": {"classes": 3, "minimum": -2.0, "maximum": 0.0, "step": 1.0},
        },
        "head_sizes": {"note_number": 4, "log10_decay_time": 3},
        "auxiliary_size": 4,
        "target_width": 1.5,
        "class_names": {},
    }
    OmegaConf.create(spec.as_config())  # plain builtins


def test_heads_and_channels_are_chosen_in_the_asked_order(vimh_dataset: Path) -> None:
    options = {"heads": ["log10_decay_time", "note_number"], "channel_selection": ["*_spectral_envelope", "R"]}
    both, chosen = _ready(vimh_dataset), _ready(vimh_dataset, **options)
    assert list(chosen.spec.heads) == ["log10_decay_time", "note_number"]
    assert (chosen.spec.channels, chosen.spec.features) == (2, 2048)
    everything, batch = _all(both, "val"), _all(chosen, "val")
    assert torch.equal(batch["index"], everything["index"].flip(1))
    assert torch.equal(batch["image"], everything["image"][:, [0, 2]])


def test_streaming_gives_the_same_batches(vimh_dataset: Path) -> None:
    options = {"auxiliary_features": ["decay_time"], "channel_selection": ["R"], "coverage_mode": True, "batch_size": 10}
    loaded = _ready(vimh_dataset, in_memory=True, **options)
    streamed = _ready(vimh_dataset, in_memory=False, **options)
    assert (loaded.streams, streamed.streams) == (False, True)
    for part in ("train", "val", "test"):
        for one, other in zip(_batches(loaded, part), _batches(streamed, part), strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("limit", "streams"), [(0.001, False), (0.0002, True), (0, True)])
def test_the_memory_limit_decides(vimh_dataset: Path, limit: float, streams: bool) -> None:
    # 102 train-file samples of 3,072 bytes are 0.00029 GiB
    assert _ready(vimh_dataset, memory_limit_gib=limit).streams is streams


def test_streaming_with_workers_gives_the_same_batches(vimh_dataset: Path) -> None:
    loaded, streamed = _ready(vimh_dataset), _ready(vimh_dataset, in_memory=False, num_workers=1)
    for one, other in zip(_batches(loaded), _batches(streamed), strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["index"], other["index"])


def test_auxiliary_features_are_of_the_whole_stored_image_and_standardised_on_the_train_split(vimh_dataset: Path) -> None:
    datamodule = _ready(vimh_dataset, auxiliary_features=["decay_time"], channel_selection=["R_spectral_envelope"])
    images = torch.from_numpy(open_dataset(vimh_dataset).train.images[:].copy()).float() / 255
    raw = decay_time(images)
    train = raw[datamodule.split.train]
    expected = (raw[datamodule.split.validation] - train.mean(0)) / train.std(0, correction=0)
    assert torch.allclose(_all(datamodule, "val")["auxiliary"], expected, atol=1e-4)
    standardised = _all(datamodule, "train")["auxiliary"]
    assert torch.allclose(standardised.mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(standardised.std(0, correction=0), torch.ones(4), atol=1e-5)


def _samples_of(datamodule: VIMHDataModule) -> dict[str, int]:
    return {part: len(_all(datamodule, part)["index"]) for part in ("train", "val", "test")}


def test_the_three_kinds_of_split(vimh_dataset: Path) -> None:
    # 128 samples: 102 in the train file, 26 in the test file
    assert _samples_of(_ready(vimh_dataset)) == {"train": 71, "val": 21, "test": 10}
    assert _samples_of(_ready(vimh_dataset, use_random_split=False)) == {"train": 92, "val": 10, "test": 26}
    assert _samples_of(_ready(vimh_dataset, coverage_mode=True)) == {"train": 115, "val": 7, "test": 6}


def test_the_split_seed_decides_the_split_and_the_seed_the_order(vimh_dataset: Path) -> None:
    def training(**seeds: int) -> torch.Tensor:
        return _all(_ready(vimh_dataset, **seeds), "train")["image"].flatten(1)

    base = training()
    assert torch.equal(training(), base)
    reordered = training(seed=1)
    assert not torch.equal(reordered, base)
    assert torch.allclose(reordered.sum(0), base.sum(0), atol=1e-3)
    assert not torch.allclose(training(split_seed=1).sum(0), base.sum(0), atol=1e-3)


def test_images_are_standardised_channel_by_channel_on_the_train_split(vimh_dataset: Path) -> None:
    raw, standardised = _ready(vimh_dataset, normalisation="none"), _ready(vimh_dataset)
    train = _all(standardised, "train")["image"]
    assert torch.allclose(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(train.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
    images = _all(raw, "train")["image"]
    deviation, mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True, correction=0)
    expected = (_all(raw, "val")["image"] - mean) / deviation
    assert torch.allclose(_all(standardised, "val")["image"], expected, atol=1e-4)


def test_standardisation_is_of_the_whole_train_split_however_it_is_stored(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lhtx.data.images.MEASURED_IMAGES", 64)
    ranges = {"log10_decay_time": None, "note_velocity": {"min": 40, "max": 120, "step": 5}}  # a grid is stored in order
    recipe = {"grid": True, "vary": ranges, "envelopes": [], "height": 8, "width": 8, "test_fraction": 0.0}
    train = _all(_ready(tmp_path / "grid", generate=recipe), "train")["image"]
    assert len(train) > 4 * 64
    assert abs(train.mean().item()) < 0.05
    assert train.std().item() == pytest.approx(1.0, abs=0.05)


class _Recorder(lightning.LightningModule):
    """Trains a single number and keeps the labels of every batch that it sees, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[list]] = {}

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        assert batch["image"].dtype == torch.float32
        self.seen.setdefault(self.current_epoch, []).append(batch["image"].mean(dim=(1, 2, 3)).tolist())
        return (self.weight - batch["value"].mean()).square().sum()

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _fit(
    directory: Path, epochs: int, root: Path, checkpoint: str | None = None, **options
) -> tuple[_Recorder, lightning.Trainer]:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        enable_checkpointing=False,
    )
    module = _Recorder()
    trainer.fit(module, datamodule=VIMHDataModule(directory, batch_size=16, **options), ckpt_path=checkpoint)
    return module, trainer


@pytest.mark.parametrize("options", [{}, {"in_memory": False}, {"in_memory": False, "num_workers": 1}])
def test_a_resumed_run_sees_the_order_that_it_would_have_seen(vimh_dataset: Path, tmp_path: Path, options: dict) -> None:
    whole, _ = _fit(vimh_dataset, 4, tmp_path)
    _, trainer = _fit(vimh_dataset, 2, tmp_path)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed, _ = _fit(vimh_dataset, 4, tmp_path, str(tmp_path / "two.ckpt"), **options)
    assert sorted(whole.seen) == [0, 1, 2, 3]
    assert resumed.seen == {epoch: whole.seen[epoch] for epoch in (2, 3)}
    assert whole.seen[0] != whole.seen[1]
    assert torch.equal(resumed.weight, whole.weight)


RECIPE = {"size": 30, "height": 4, "width": 4, "duration": 0.05}


def test_a_missing_dataset_is_made_by_its_recipe(tmp_path: Path) -> None:
    recipe = OmegaConf.create(RECIPE | {"vary": {"note_number": {"min": 50, "max": 52, "step": 1}, "log10_decay_time": None}})
    datamodule = VIMHDataModule(tmp_path / "made", generate=recipe)
    datamodule.prepare_data()
    assert datamodule.spec.head_sizes == {"note_number": 3, "log10_decay_time": 24}
    datamodule.prepare_data()
    with pytest.raises(DatasetError, match="made by another recipe: size is 30 there, 31 here"):
        VIMHDataModule(tmp_path / "made", generate=RECIPE | {"size": 31, "vary": recipe["vary"]}).prepare_data()


def test_a_missing_dataset_without_a_recipe_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        VIMHDataModule(tmp_path / "none").prepare_data()
    assert f"no dataset at {tmp_path / 'none'}; make one with `python -m lhtx.data.generate --output" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size is 2.5; expected a whole number"),
        ({"num_workers": -1}, "num_workers is -1; expected a whole number of at least 0"),
        ({"target_width": -0.5}, "target_width is -0.5; expected a number of at least 0"),
        ({"target_width": float("nan")}, "target_width is nan"),
        ({"in_memory": "yes"}, "in_memory is 'yes'; expected true, false or auto"),
        ({"auxiliary_features": ["decay_tim"]}, r"auxiliary_features: unknown 'decay_tim' \(did you mean decay_time"),
        ({"train_val_test_split": [0.5, 0.5]}, "expected three numbers ≥ 0 that sum to 1"),
        ({"generate": {"siez": 3}}, "unknown generator option 'siez'; did you mean size"),
    ],
)
def test_a_bad_argument_is_refused_at_once(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VIMHDataModule(tmp_path / "never opened", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"heads": ["note_numbr"]},
            "heads: .* has no head 'note_numbr'. Did you mean note_number.* Accepted: log10_decay_time, note_number",
        ),
        ({"heads": []}, r"heads is \[\]; expected different heads among note_number, log10_decay_time"),
        ({"heads": ["note_number"] * 2}, "expected different heads"),
        ({"channel_selection": ["Q*"]}, r"'Q\*' matches no channel; the channels are R, R_temporal_envelope"),
        ({"channel_selection": "R"}, "expected a list of names or patterns"),
    ],
)
def test_what_the_dataset_does_not_have_is_refused_by_the_spec(vimh_dataset: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _ = VIMHDataModule(vimh_dataset, **options).spec
    with pytest.raises(ConfigError, match=message):
        _ready(vimh_dataset, **options)


def test_loaders_need_setup(vimh_dataset: Path) -> None:
    with pytest.raises(RuntimeError, match=r"call prepare_data\(\) and setup\(\) first"):
        VIMHDataModule(vimh_dataset).train_dataloader()
