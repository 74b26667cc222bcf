"""Places that cannot be written to: a file where a directory belongs, and /proc, which takes nothing from anybody."""

from pathlib import Path

import pytest

import lhtx.data.generate
import lhtx.data.view
import lhtx.diagram.__main__
import lhtx.suite
from lhtx.compose import compose
from lhtx.data.info import read_info
from lhtx.errors import ConfigError, DatasetError
from lhtx.files import check_directory, check_file, ensure_directory
from lhtx.predict import predict
from lhtx.train import train

PROC = "nothing can be made in /proc ("


@pytest.fixture
def file(tmp_path: Path) -> Path:
    place = tmp_path / "file"
    place.touch()
    return place


def test_a_directory_is_made_and_one_that_cannot_be_is_refused_by_its_key(tmp_path, file):
    assert ensure_directory(tmp_path / "a" / "b", "out") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    check_directory(tmp_path / "c" / "d", "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "file"]
    for place, words in (
        (file, f"out is {file}, and that is a file; expected a directory that can be made and written to"),
        (file / "x", f"out is {file / 'x'}, and {file} is a file"),
        (Path("/proc/x"), f"out is /proc/x, and {PROC}"),
        (tmp_path / ("n" * 300), "and File name too long"),
    ):
        for refuse in (check_directory, ensure_directory):
            with pytest.raises(ConfigError) as error:
                refuse(place, "out")
            assert words in str(error.value)


def test_a_file_needs_a_directory_and_a_name_of_its_own(tmp_path, file):
    check_file(tmp_path / "new" / "x.csv", "out")
    check_file(file, "out")
    with pytest.raises(ConfigError, match=f"out is {tmp_path}, and that is a directory; expected a file"):
        check_file(tmp_path, "out")
    with pytest.raises(ConfigError, match=f"the directory of out is {file}, and that is a file"):
        check_file(file / "x.csv", "out")


@pytest.mark.parametrize("data", ["mnist", "cifar10"])
def test_a_dataset_is_not_fetched_to_where_it_cannot_be(data, file, tmp_path):
    for place, why in ((file, "that is a file"), ("/proc/x", PROC)):
        with pytest.raises(ConfigError) as error:
            train(compose([f"data={data}", f"data.data_dir={place}", f"paths.output_dir={tmp_path / 'run'}"]))
        assert f"data.data_dir is {place}, and {why}" in str(error.value)


def test_a_dataset_is_not_made_where_it_cannot_be(file, tmp_path, capsys):
    for place in (file, "/proc/x"):
        with pytest.raises(ConfigError, match=r"the place of the dataset \(data.data_dir, --root or --output\) is"):
            train(compose([f"paths.data_dir={place}", f"paths.output_dir={tmp_path / 'run'}"]))
        assert lhtx.data.generate.main(["--size", "4", "--root", str(place)]) == 2
        assert f"is {place}, and" in capsys.readouterr().err
    with pytest.raises(DatasetError, match=f"{file} is a file; expected the directory of a VIMH dataset"):
        read_info(file)


def test_outputs_are_refused_before_the_work(file, tmp_path, capsys, monkeypatch, vimh_dataset):
    with pytest.raises(SystemExit) as stop:
        lhtx.diagram.__main__.main(["data=digits", "model=digits_cnn", "paths.output_dir=/proc/x"])
    assert stop.value.code == 2
    assert f"error: paths.output_dir is /proc/x, and {PROC}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        lhtx.suite.main(["digits_mlp", "paths.log_dir=/proc/x"])
    assert stop.value.code == 2
    assert f"(paths.log_dir) is /proc/x/suite/digits_mlp, and {PROC}" in capsys.readouterr().err
    assert lhtx.data.view.main([str(vimh_dataset), "--out", "/proc/x.png"]) == 2
    assert f"the directory of --out is /proc, and {PROC}" in capsys.readouterr().err
    assert lhtx.data.view.main([str(tmp_path / "nope")]) == 2
    monkeypatch.setattr("lhtx.predict.restore", lambda cfg: pytest.fail("it began"))
    cfg = compose(["+split=test", f"paths.output_dir={tmp_path}", f"+out={file / 'x.csv'}"])
    with pytest.raises(ConfigError, match=f"the directory of out is {file}, and that is a file"):
        predict(cfg)
