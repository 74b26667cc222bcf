"""A write that fails leaves what was there."""

import pytest

from lhtx.files import replacing, write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, None)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_block_that_writes_nothing_replaces_nothing(tmp_path):
    path = tmp_path / "file"
    with replacing(path) as temporary:
        temporary.write_text("whole")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "whole"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
