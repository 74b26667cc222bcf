"""Config files that a user writes: local settings that set what there is not, and files that are no YAML."""

import shutil
from pathlib import Path

import pytest

import lhtx.compose
from lhtx.compose import CONFIGS, compose
from lhtx.errors import ConfigError

GLOBAL = "# @package _global_\n"


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the configs, which `compose` reads in their place."""
    copy = tmp_path / "configs"
    shutil.copytree(CONFIGS, copy)
    (copy / "local" / "default.yaml").unlink(missing_ok=True)
    monkeypatch.setattr(lhtx.compose, "CONFIGS", copy)
    return copy


def test_local_settings_win_over_every_group(configs):
    (configs / "local" / "default.yaml").write_text(f"{GLOBAL}paths: {{data_dir: /scratch}}\ntrainer:\n  accelerator: gpu\n")
    cfg = compose(["trainer=cpu"])
    assert (cfg.paths.data_dir, cfg.trainer.accelerator) == ("/scratch", "gpu")
    assert compose(["~local"]).paths.data_dir != "/scratch"


def test_local_settings_may_choose_an_option_and_change_it(configs):
    text = f"{GLOBAL}defaults:\n  - override /logger: csv\nlogger:\n  csv: {{name: mine}}\n"
    (configs / "local" / "default.yaml").write_text(text)
    assert compose([]).logger.csv.name == "mine"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{GLOBAL}trainer:\n  acelerator: cpu\n", ["no key 'acelerator' in trainer. Did you mean accelerator?"]),
        (f"{GLOBAL}trainr: {{}}\n", ["no key 'trainr' at the top level. Did you mean trainer"]),
        ("trainer:\n  accelerator: cpu\n", ["the first line must be `# @package _global_`"]),
        (f"{GLOBAL}trainer: {{\n  devices: [\nseed: 1", ["default.yaml:4:8: no YAML: expected"]),
    ],
)
def test_local_settings_of_what_there_is_not_are_refused(configs, text, words):
    file = configs / "local" / "default.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        compose([])
    for word in [str(file), *words]:
        assert word in str(error.value)


def test_a_group_s_file_that_is_no_yaml_is_refused_by_its_line(configs):
    file = configs / "model" / "vimh_cnn.yaml"
    file.write_text("net:\n  a: b: c\n")
    with pytest.raises(ConfigError, match=rf"^{file}:2:7: no YAML: mapping values are not allowed here"):
        compose([])
