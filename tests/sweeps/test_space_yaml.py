"""YAML with places, and `extends`."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.errors import SpaceError
from sweeps.extends import load_extended
from sweeps.located_yaml import dump, load


def write(directory: Path, text: str, name: str = "space.yaml") -> Path:
    path = directory / name
    path.write_text(textwrap.dedent(text))
    return path


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    path = write(tmp_path, "{a: off, b: no, c: 1e-4, d: 010, e: 200_000, f: true, g: ~, h: 1:30, i: 2026-01-01, j: .5, k: -3}")
    assert load(path).value == {
        "a": "off",
        "b": "no",
        "c": 1e-4,
        "d": "010",
        "e": 200_000,
        "f": True,
        "g": None,
        "h": "1:30",
        "i": "2026-01-01",
        "j": 0.5,
        "k": -3,
    }


def test_every_part_has_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
        space:
          model: [a,
                  b]
          # a comment
          lr: {uniform: [0, 1]}
        """,
    )
    document = load(path)
    lines = {key: where.line for key, where in document.lines.items()}
    assert lines[("space",)] == 1
    assert lines[("space", "model")] == 2
    assert lines[("space", "model", 0)] == 2
    assert lines[("space", "model", 1)] == 3
    assert lines[("space", "lr", "uniform", 1)] == 5
    assert document.where(("space", "lr", "nowhere", "deeper")) == f"{path}:5"
    assert document.where(("nowhere",)) == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "space.yaml:3: a is given twice: first in line 1, then here"),
        ("a:\n  b: 1\n  b: 1\n", "space.yaml:3: a.b is given twice: first in line 2"),
        ("1: x\n", "space.yaml:1: a key must be text, found '1'"),
        ("a: [1, 2\nb: 3\n", "space.yaml:2: not valid YAML"),
        ("a: &x 1\nb: *x\n", r"space.yaml:2: not valid YAML: the alias \*x: aliases are not supported"),
        (
            "a: !!python/object:os.system {}\n",
            "space.yaml:1: not valid YAML: the tag tag:yaml.org,2002:python/object:os.system",
        ),
        ("", "space.yaml: a mapping is expected at the top, found nothing"),
        ("- a\n", r"space.yaml: a mapping is expected at the top, found the list \['a'\]"),
        ("a: 1\n---\nb: 2\n", "space.yaml:2: not valid YAML"),
    ],
)
def test_what_is_no_sound_yaml_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        load(write(tmp_path, text))


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(SpaceError, match="not UTF-8 text \\(byte 3\\)"):
        load(path)


TEXT = st.text("ab 0.e+-\n\t'\"#:{}[],&*!|>%@`\\é…\x85", max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT)
WORDS = st.sampled_from(
    ["off", "no", "1e-4", "010", "null", "~", "", " x", "a: b", "# c", "1:30", "2026-01-01", "0x1f", ".5", "+1"]
)


@given(st.dictionaries(st.text("abc.", min_size=1), SCALARS | WORDS | st.lists(SCALARS | WORDS, max_size=4), max_size=4))
def test_dump_and_load_are_inverse(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("dump") / "space.yaml"
    path.write_text(dump(value), encoding="utf-8")
    loaded = load(path).value
    assert loaded == value
    assert repr(loaded) == repr(value)  # types too: 1 is not True


def test_infinity_is_read_as_such(tmp_path: Path) -> None:
    assert load(write(tmp_path, "a: -.inf")).value["a"] == -math.inf


class TestExtends:
    BASE = """\
        description: base
        trial: [experiment=vimh, trainer.max_epochs=20]
        space:
          lr: {log_uniform: [0.1, 1.0]}
          model: [a, b]
        search: {trials: 10, seed: 3}
        constraints: [lr < 1]
        """

    def merged(self, tmp_path: Path, child: str) -> dict[str, Any]:
        write(tmp_path, self.BASE, "_base.yaml")
        return load_extended(write(tmp_path, child)).value

    def test_mappings_merge_and_the_rest_is_replaced(self, tmp_path: Path) -> None:
        merged = self.merged(tmp_path, "{extends: _base.yaml, search: {trials: 99}, constraints: [lr > 0], description: mine}")
        assert merged["search"] == {"trials": 99, "seed": 3}
        assert merged["constraints"] == ["lr > 0"]
        assert merged["description"] == "mine"
        assert "extends" not in merged

    def test_a_parameter_is_replaced_whole(self, tmp_path: Path) -> None:
        merged = self.merged(tmp_path, "{extends: _base.yaml, space: {lr: {uniform: [0, 2]}}}")
        assert merged["space"] == {"lr": {"uniform": [0, 2]}, "model": ["a", "b"]}

    def test_null_takes_an_inherited_entry_out(self, tmp_path: Path) -> None:
        merged = self.merged(tmp_path, "{extends: _base.yaml, space: {model: null}, search: {seed: null}}")
        assert list(merged["space"]) == ["lr"]
        assert merged["search"] == {"trials": 10}

    def test_trial_is_joined_by_key(self, tmp_path: Path) -> None:
        merged = self.merged(tmp_path, "{extends: _base.yaml, trial: [seed=1, trainer.max_epochs=5]}")
        assert merged["trial"] == ["experiment=vimh", "trainer.max_epochs=5", "seed=1"]

    def test_places_point_into_the_file_in_which_a_part_stands(self, tmp_path: Path) -> None:
        write(tmp_path, self.BASE, "_base.yaml")
        path = write(tmp_path, "extends: _base.yaml\ntrial:\n  - seed=1\nsearch:\n  trials: 5\n")
        document = load_extended(path)
        assert document.where(("search", "trials")) == f"{path}:5"
        assert document.where(("search", "seed")) == f"{tmp_path / '_base.yaml'}:6"
        assert document.where(("trial", 1)) == f"{tmp_path / '_base.yaml'}:2"
        assert document.where(("trial", 2)) == f"{path}:3"

    def test_a_chain_of_three_across_directories(self, tmp_path: Path) -> None:
        (tmp_path / "deep").mkdir()
        write(tmp_path, "{a: 1, b: {c: 1, d: 1}}", "one.yaml")
        write(tmp_path, "{extends: ../one.yaml, b: {c: 2}}", "deep/two.yaml")
        path = write(tmp_path, "{extends: deep/two.yaml, b: {e: 3}}", "three.yaml")
        assert load_extended(path).value == {"a": 1, "b": {"c": 2, "d": 1, "e": 3}}

    def test_a_circle_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "extends: b.yaml", "a.yaml")
        path = write(tmp_path, "extends: a.yaml", "b.yaml")
        with pytest.raises(SpaceError, match=r"a.yaml:1: extends: a file cannot extend itself: .*b.yaml → .*a.yaml → .*b.yaml"):
            load_extended(path)

    def test_a_missing_base_lists_what_is_there(self, tmp_path: Path) -> None:
        write(tmp_path, self.BASE, "_base.yaml")
        with pytest.raises(SpaceError, match=r"space.yaml:1: extends: there is no file .*bas.yaml. .*holds: _base.yaml"):
            load_extended(write(tmp_path, "extends: bas.yaml"))

    def test_one_file_is_expected(self, tmp_path: Path) -> None:
        with pytest.raises(SpaceError, match="the name of one file is expected, found the list"):
            load_extended(write(tmp_path, "extends: [a.yaml, b.yaml]"))
