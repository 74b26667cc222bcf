"""The search spaces that come with the project, and their page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

import sweeps.validation
from sweeps.distributions import KINDS, Normal, Range
from sweeps.hydra_overrides import key_of
from sweeps.sampler_options import SAMPLERS
from sweeps.schema import (
    PLATFORM_KEYS,
    SCHEDULER_OPTIONS,
    Budget,
    GuardOptions,
    Objective,
    OutcomeConstraint,
    Repeats,
    Resources,
    Search,
    Stopping,
)
from sweeps.space import load_space, space_names
from sweeps.space_reader import KEYS
from sweeps.validation import validate

DIRECTORY = Path(__file__).parents[2] / "search_spaces"
PAGE = (DIRECTORY / "README.md").read_text()


@pytest.mark.parametrize("name", space_names(DIRECTORY))
def test_a_shipped_space_is_sound(name: str, vimh_dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps.validation, "DRAWS_TO_COMPOSE", 15)
    space = load_space(name, DIRECTORY)
    assert space.description.endswith("?"), "a sweep asks a question"
    if "experiment=vimh" in space.trial:  # on small data
        space = replace(space, trial=(*space.trial, f"data.data_dir={vimh_dataset}", "data.generate=null"))
    found = validate(space, samples=4)
    assert found.rejected < 0.7
    assert found.sizes


def test_the_pinned_spaces_are_there() -> None:
    assert {"quickstart", "vimh_architectures", "vimh_target_width", "vimh_auxiliary"} <= set(space_names(DIRECTORY))


def test_quickstart_searches_what_it_promises() -> None:
    space = load_space("quickstart", DIRECTORY)
    assert set(space.parameters) == {
        "model",
        "data.target_width",
        "model.net.auxiliary_hidden_size",
        "model.optimizer.lr",
        "data.batch_size",
    }
    assert space.parameters["model"].distribution.ends() == ["vimh_mlp", "vimh_sdn", "vimh_cnn"]
    assert space.parameters["model.net.auxiliary_hidden_size"].when == (("model", ("vimh_cnn",)),)
    assert space.search.trials >= 24
    assert (space.search.seed, space.stopping.scheduler, space.stopping.guard.mode) == (1, "asha", "act")


def test_what_sets_the_amount_of_training_is_pinned() -> None:
    for name in space_names(DIRECTORY):
        keys = [key_of(text) for text in load_space(name, DIRECTORY).trial]
        assert "trainer.max_epochs" in keys, name


class TestThePage:
    """search_spaces/README.md says all that the schema accepts, and its examples are accepted."""

    def test_its_examples_are_accepted(self, tmp_path: Path) -> None:
        blocks = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
        whole = [block for block in blocks if block.startswith("description:")]
        assert len(whole) == 1
        (tmp_path / "example.yaml").write_text(whole[0])
        base = load_space("example", tmp_path)
        for index, block in enumerate(block for block in blocks if block.startswith("extends:")):
            (tmp_path / f"part{index}.yaml").write_text(block)
            assert load_space(f"part{index}", tmp_path) != base

    def test_it_names_every_key(self) -> None:
        fields = [
            field.alias or name
            for model in (Objective, OutcomeConstraint, Search, Repeats, Stopping, GuardOptions, Resources, Budget)
            for name, field in model.model_fields.items()
        ]
        options = [*SAMPLERS, *(option for model in SAMPLERS.values() for option in model.model_fields), *SCHEDULER_OPTIONS]
        for word in [*KEYS, *fields, *options, *KINDS, *PLATFORM_KEYS]:
            assert f"`{word}`" in PAGE, word

    @pytest.mark.parametrize("model", [Search, Stopping, GuardOptions, Resources, Budget])
    def test_its_defaults_are_those_of_the_schema(self, model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            if not isinstance(field.default, str | int | float | None) or name == "guard":
                continue
            taken = [options[name] for options in SCHEDULER_OPTIONS.values() if name in options and model is Stopping]
            default = taken[0] if taken else field.default
            none = "required" if taken else "none"
            shown = none if default is None else f"{default:g}" if isinstance(default, float) else default
            row = re.search(rf"^\| `{name}` \| `?([^|`]*)`? \|", PAGE, flags=re.MULTILINE)
            assert row is not None, name
            assert row[1].strip() == str(shown), name

    def test_it_lists_every_shipped_space(self) -> None:
        for name in space_names(DIRECTORY):
            assert f"`{name}`" in PAGE

    def test_what_it_says_of_the_default_clip_is_so(self) -> None:
        assert "three standard deviations" in PAGE
        assert Normal.parse([0.0, 1.0], None) == Normal.parse([0.0, 1.0], [-3.0, 3.0])
        assert Range.parse("uniform", [0, 1]).ends() == [0.0, 1.0]
