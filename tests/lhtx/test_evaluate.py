"""Evaluating a checkpoint: the run's own config is found, repeated and changed; what does not belong is refused."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from lhtx.checkpoints import AtomicCheckpointIO, load_checkpoint
from lhtx.compose import build_datamodule, compose
from lhtx.errors import CheckpointError, ConfigError
from lhtx.evaluate import compose_evaluation, evaluate, main, restore
from lhtx.train import train


@pytest.fixture(scope="module")
def run(small_data, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """A finished run, in a directory whose name a shell or Hydra would trip over."""
    output = tmp_path_factory.mktemp("a run") / "it's (one)"
    quoted = str(output).replace("'", "\\'")
    overrides = [*small_data, f"paths.output_dir='{quoted}'", "debug=limit", "threads=1", "data.batch_size=16"]
    overrides += ["trainer.enable_progress_bar=false", "model.net.fc_hidden=16", "trainer.limit_test_batches=null"]
    return output, train(compose(overrides))


@pytest.fixture
def evaluation(run, tmp_path):
    """Makes the overrides of a silent evaluation of the run's best checkpoint into `tmp_path`."""

    def overrides(*more: str, checkpoint: Path = run[0] / "checkpoints" / "best.ckpt") -> list[str]:
        quoted = str(checkpoint).replace("'", "\\'")
        return [f"ckpt_path='{quoted}'", f"paths.log_dir={tmp_path}", *more]

    return overrides


def test_repeats_the_test_of_the_run_and_writes_it_elsewhere(run, evaluation, tmp_path):
    output, trained = run
    before = sorted(str(path) for path in output.rglob("*"))
    cfg = compose_evaluation(evaluation())
    metrics = evaluate(cfg)
    assert metrics == {name: value for name, value in trained.items() if name.startswith("test/")}
    written = Path(cfg.paths.output_dir)
    assert written.parent == tmp_path / "evaluate" / "runs"
    assert json.loads((written / "metrics.json").read_text()) == metrics
    assert (written / "config.yaml").exists()
    assert sorted(str(path) for path in output.rglob("*")) == before


def test_overrides_change_the_run_s_config_and_nothing_else_does(run, evaluation):
    cfg = compose_evaluation(evaluation("split=val", "data.batch_size=7"))
    saved = OmegaConf.load(run[0] / "config.yaml")
    assert cfg.model == saved.model
    assert dict(cfg.data) == dict(saved.data) | {"batch_size": 7}
    assert set(cfg.callbacks) == {"progress_bar"}
    assert not cfg.logger
    assert cfg.trainer.limit_test_batches is None
    assert cfg.trainer.accelerator == saved.trainer.accelerator
    metrics = evaluate(cfg)
    assert set(metrics) == {"val/loss", "val/avg_acc", "val/note_number_acc", "val/log10_decay_time_acc"}  # and no val/acc_best


def test_groups_can_be_chosen_too(evaluation, tmp_path):
    cfg = compose_evaluation(evaluation("trainer=cpu", "logger=csv"))
    assert cfg.trainer.deterministic is True
    evaluate(cfg)
    assert (Path(cfg.paths.output_dir) / "csv" / "metrics.csv").exists()


def test_the_last_checkpoint_gives_other_weights(run, evaluation):
    cfg = compose_evaluation(evaluation(checkpoint=run[0] / "checkpoints" / "last.ckpt"))
    assert set(evaluate(cfg)) == {name for name in run[1] if name.startswith("test/")}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["split=train"], "split is 'train'. Accepted: test, val"),
        (["data.batch_siz=3"], "Did you mean batch_size"),
        (["trainer=gpuu"], "Did you mean gpu"),
    ],
)
def test_overrides_that_do_not_compose_are_refused_by_name(evaluation, overrides, words):
    with pytest.raises(ConfigError) as error:
        compose_evaluation(evaluation(*overrides))
    assert words in str(error.value)


def test_a_checkpoint_is_required():
    with pytest.raises(ConfigError, match=r"Expected ckpt_path=<run>/checkpoints/best\.ckpt"):
        compose_evaluation(["data.batch_size=3"])


def test_without_a_config_beside_it_a_checkpoint_says_where_it_was_sought(evaluation, tmp_path):
    checkpoint = tmp_path / "moved" / "best.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    with pytest.raises(CheckpointError, match=r"config does not lie beside .*moved/config\.yaml"):
        compose_evaluation(evaluation(checkpoint=checkpoint))


def test_another_network_is_refused_by_its_first_tensor(evaluation):
    cfg = compose_evaluation(evaluation("model.net.fc_hidden=24"))
    with pytest.raises(CheckpointError, match=r"net\.hidden\.weight is of shape \(16, 512\) .* and of shape \(24, 512\)"):
        evaluate(cfg)


def test_other_data_are_refused_by_what_differs(evaluation, vimh_dataset):
    with pytest.raises(CheckpointError, match=r"trained with dataset\.channels = 1"):
        evaluate(compose_evaluation(evaluation(f"data.data_dir={vimh_dataset}", "data.generate=null")))
    with pytest.raises(CheckpointError, match=r"trained with dataset\.target_width = 0\.0"):
        evaluate(compose_evaluation(evaluation("data.target_width=1.0")))


@pytest.mark.parametrize(
    ("override", "was", "why"),
    [
        ("data.split_seed=7", "42", "samples that it has trained on"),
        ("data.train_val_test_split=[0.5,0.3,0.2]", "[0.7, 0.2, 0.1]", "samples that it has trained on"),
        ("data.use_random_split=false", "True", "samples that it has trained on"),
        ("data.coverage_mode=true", "False", "samples that it has trained on"),
        ("data.normalisation=none", "train", "reads and predicts nothing else"),
        ("data.channel_selection=[R]", "None", "reads and predicts nothing else"),
        ("data.heads=[note_number]", "None", "reads and predicts nothing else"),
        ("data.auxiliary_features=[decay_time]", "[]", "reads and predicts nothing else"),
    ],
)
def test_the_run_s_own_data_are_split_and_read_as_the_run_did(evaluation, override, was, why):
    key, value = override.split("=")
    with pytest.raises(ConfigError) as error:
        evaluate(compose_evaluation(evaluation(override)))
    message = str(error.value).replace(" ", "").replace("'", "")
    for words in (
        f"{key} is {value.title() if value in ('true', 'false') else value}",
        f"trained with {was}",
        why,
        f"Leave {key} out",
    ):
        assert words.replace(" ", "") in message


@pytest.fixture
def places(run, tmp_path) -> dict[str, list[str]]:
    """Other ways to the data of the run: overrides."""
    data = Path(OmegaConf.load(run[0] / "config.yaml").data.data_dir)
    (tmp_path / "link").symlink_to(data)
    for name in ("copy", "handed_on"):
        shutil.copytree(data, tmp_path / name)
    ways = {name: [f"data.data_dir={tmp_path / name}"] for name in ("link", "copy", "handed_on")}
    ways["handed_on"].append("data.generate=null")
    ways["another_class"] = ["data._target_=lhtx.data.vimh.VIMHDataModule"]
    return ways


@pytest.mark.parametrize("way", ["link", "copy", "handed_on", "another_class"])
def test_the_run_s_own_data_are_known_wherever_they_lie(run, evaluation, places, way):
    for override in ("data.split_seed=7", "data.heads=[note_number]"):
        with pytest.raises(ConfigError, match=r"Leave data\..* out"):
            evaluate(compose_evaluation(evaluation(*places[way], override)))
    assert evaluate(compose_evaluation(evaluation(*places[way])))["test/loss"] == run[1]["test/loss"]


def test_another_dataset_may_be_split_in_its_own_way_but_is_normalised_as_the_run_was(evaluation, tmp_path):
    other = (f"data.data_dir={tmp_path / 'other'}", "data.generate.seed=1", "data.split_seed=7")
    assert set(evaluate(compose_evaluation(evaluation(*other)))) >= {"test/loss", "test/avg_acc"}
    with pytest.raises(ConfigError, match=r"data\.normalisation is none, .* trained with train on vimh-.*Leave .* out"):
        evaluate(compose_evaluation(evaluation(*other, "data.normalisation=none")))


def test_another_dataset_is_normalised_by_the_constants_of_the_run(run, evaluation, tmp_path):
    files = [evaluation(checkpoint=run[0] / "checkpoints" / name) for name in ("best.ckpt", "last.ckpt")]
    other = (f"data.data_dir={tmp_path / 'other'}", "data.generate.seed=1", "data.generate.noise=0.3")
    own = [restore(compose_evaluation(overrides))[1] for overrides in files]
    theirs = [restore(compose_evaluation([*overrides, *other]))[1] for overrides in files]
    measured = build_datamodule(compose_evaluation([*files[0], *other]))
    for datamodule in (*own, *theirs, measured):
        datamodule.setup()
    constants = [each.state_dict()["input_constants"] for each in (*own, *theirs, measured)]
    assert all(one["mean"] == constants[0]["mean"] and one["deviation"] == constants[0]["deviation"] for one in constants[:4])
    assert abs(constants[4]["mean"] - constants[0]["mean"]) > 0.01  # what it would have been
    image = theirs[0].on_after_batch_transfer(next(iter(theirs[0].test_dataloader())), 0)["image"]
    stored = next(iter(theirs[0].test_dataloader()))["image"]
    torch.testing.assert_close(image, (stored / 255 - constants[0]["mean"]) / constants[0]["deviation"])


def test_a_checkpoint_without_constants_says_so(run, evaluation, tmp_path):
    shutil.copy(run[0] / "config.yaml", tmp_path / "config.yaml")
    old = torch.load(run[0] / "checkpoints" / "best.ckpt", weights_only=True)
    del old["VIMHDataModule"]
    torch.save(old, tmp_path / "old.ckpt")
    with pytest.warns(UserWarning, match=r"old\.ckpt does not say by which means .* the dataset of its run alone"):
        metrics = evaluate(compose_evaluation(evaluation(checkpoint=tmp_path / "old.ckpt")))
    assert metrics["test/loss"] == run[1]["test/loss"]


def test_a_file_that_is_no_checkpoint_is_refused(run, evaluation, tmp_path):
    shutil.copy(run[0] / "config.yaml", tmp_path / "config.yaml")
    broken = tmp_path / "checkpoints" / "broken.ckpt"
    broken.parent.mkdir()
    whole = (run[0] / "checkpoints" / "best.ckpt").read_bytes()
    for content, words in ((whole[: len(whole) // 2], "cannot be read"), (b"", "cannot be read")):
        broken.write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            evaluate(compose_evaluation(evaluation(checkpoint=broken)))
    torch.save({"weights": torch.zeros(1)}, broken)
    with pytest.raises(CheckpointError, match="holds no 'state_dict'"):
        load_checkpoint(broken)
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*absent\.ckpt.*In that directory: .*broken\.ckpt"):
        load_checkpoint(broken.with_name("absent.ckpt"))


class Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    victim = tmp_path / "touched"
    torch.save({"state_dict": Exploit(victim)}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint of tensors and plain values"):
        load_checkpoint(tmp_path / "evil.ckpt")
    assert not victim.exists()


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"state_dict": {}, "epoch": 1}, file)

    def half(checkpoint, target):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("lhtx.checkpoints.torch.save", half)
    with pytest.raises(KeyboardInterrupt):
        writer.save_checkpoint({"state_dict": {}, "epoch": 2}, file)
    assert load_checkpoint(file)["epoch"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_command_line_prints_metrics_and_refuses_with_status_2(evaluation, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", *evaluation("trainer.enable_progress_bar=false")])
    main()
    printed = capsys.readouterr().out
    assert "test/avg_acc" in printed
    assert "metrics and config: " in printed
    monkeypatch.setattr(sys, "argv", ["evaluate", *evaluation("split=train")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: split is 'train'")
