"""A search space edited after its sweep began: what has changed, what of that the sweep takes over, and what it refuses.

A sweep keeps its own copy of the space. Both may be edited: the copy, and the file that the sweep began from. What decides
which trials there are and how they were judged stays as it was; how many, with what and for how long may change.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lhtx.files import write_atomically
from sweeps.errors import SpaceError
from sweeps.ledger import Ledger
from sweeps.located_yaml import dump as dump_yaml
from sweeps.located_yaml import parse
from sweeps.outputs import shown_url
from sweeps.space import DEFAULT_DIRECTORY, SearchSpace, dump, load_space

ALLOWED: tuple[tuple[str, ...], ...] = (
    ("description",),
    ("search", "trials"),
    ("search", "sampler"),
    ("search", "sampler_options"),
    ("search", "repeats"),
    ("resources",),
    ("budget",),
    ("keep_checkpoints",),
    ("results",),
    ("notify",),
)
"""The sections and keys that may change while a sweep lives."""
_GONE = object()


@dataclass(frozen=True)
class Edit:
    """One key that is not as it was."""

    path: tuple[str, ...]
    before: Any
    after: Any

    @property
    def allowed(self) -> bool:
        """Whether the sweep goes on with it."""
        if self.path == ("fuse",):  # how many train as one; whether any do decides their order of batches
            return isinstance(self.before, int) and isinstance(self.after, int) and min(self.before, self.after) > 1
        return any(self.path[: len(allowed)] == allowed for allowed in ALLOWED)

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self._shown(self.before)} → {self._shown(self.after)}"

    def _shown(self, value: Any) -> str:
        if value is _GONE:
            return "nothing"
        secret = self.path == ("notify", "webhook")
        return f"{shown_url(value)}/…" if secret else str(value)


def edits(before: str, after: str) -> list[Edit]:
    """The keys in which two resolved spaces (`dump`) differ."""
    one, other = (_flat(_data(text)) for text in (before, after))
    return [
        Edit(path, one.get(path, _GONE), other.get(path, _GONE))
        for path in dict.fromkeys([*one, *other])
        if (path in one) != (path in other) or _differ(one[path], other[path])
    ]


def _differ(one: Any, other: Any) -> bool:
    """Whether two values are written differently, as 1, 1.0 and true are, which Python holds to be equal."""
    return json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)


def _flat(space: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """By path: a section that is a mapping key by key, any other as a whole."""
    return {
        path: value
        for section, content in space.items()
        for path, value in (
            (((section, key), item) for key, item in content.items()) if isinstance(content, dict) else [((section,), content)]
        )
    }


def begun(said: SearchSpace, kept: SearchSpace) -> dict[str, str]:
    """What a manifest keeps of a space when its sweep begins: the file, what it said, and what the sweep's own copy says."""
    return {"source": str(said.document.file.resolve()), "said": dump(said), "kept": dump(kept)}


def keep(ledger: Ledger, space: SearchSpace) -> None:
    """Write what a command has changed to the sweep's copy, and note that it is no edit."""
    text = dump(space)
    write_atomically(ledger.space_file, text)
    record = ledger.manifest()
    if "space" in record:
        ledger.write_manifest({**record, "space": {**record["space"], "kept": text}})


def settle(ledger: Ledger, console: Console, recorded: bool = False) -> SearchSpace:
    """The space to go on with: the sweep's copy, with allowed edits of the copy and of its source. Says what has changed.

    What is refused leaves every file as it was.

    Args: recorded: leave every edit aside; from now on the source as it is now counts as known, also if it cannot be read.

    Raises:
        SpaceError: something was edited that must stay; the copy or its source is no search space any more; or the edits of
            both do not go together.
    """
    record = ledger.manifest()
    known = record.get("space")
    if known is None:  # a sweep from before this was kept
        return ledger.space()
    source = Path(known["source"])
    said, unread = _said(source, known, ledger, recorded)
    told: list[str] = []
    if recorded:
        text = known["kept"]
    else:
        text = dump(_read(ledger.space_file, ledger))
        copied, taken = edits(_today(known["kept"]), text), edits(_today(known["said"]), said)
        _refuse(ledger, ledger.space_file, copied)
        _refuse(ledger, source, taken)
        told = [f" in {file}: {edit}" for file, changes in ((ledger.space_file, copied), (source, taken)) for edit in changes]
        if taken:
            text, dropped = _merged(text, said, taken)
            told += [f" with the sampler: {edit}" for edit in dropped]
    text = dump(_accepted(text, source, ledger, recorded))
    for line in told:
        console.print(Text.assemble(("changed", "yellow"), line), soft_wrap=True)
    if not ledger.space_file.is_file() or ledger.space_file.read_bytes() != text.encode():
        write_atomically(ledger.space_file, text)
    noted = {"source": known["source"], "said": said, "kept": text} | ({} if unread is None else {"unread": unread})
    ledger.write_manifest({**record, "space": noted})
    return ledger.space()


def _said(source: Path, known: Mapping[str, str], ledger: Ledger, recorded: bool) -> tuple[str, str | None]:
    """What the source says now, or, where it says nothing, what it said before; and why it cannot be read, if that is known
    since somebody went on without it."""
    if not source.is_file():
        return known["said"], None
    try:
        return dump(load_space(source)), None
    except SpaceError as error:
        if recorded or str(error) == known.get("unread"):
            return known["said"], str(error)
        raise _unreadable(source, ledger, error) from error


def _read(file: Path, ledger: Ledger) -> SearchSpace:
    try:
        return load_space(file)
    except SpaceError as error:
        raise _unreadable(file, ledger, error) from error


def _unreadable(file: Path, ledger: Ledger, error: SpaceError) -> SpaceError:
    return SpaceError(
        f"{file} is no search space that the sweep {ledger.name!r} could go on with:\n{_listed(str(error).splitlines())}\n"
        f"Mend it; or go on without it, with `{ledger.command('resume')} ARGS=--recorded`."
    )


def _accepted(text: str, source: Path, ledger: Ledger, recorded: bool) -> SearchSpace:
    """The space of this text, which no file holds yet."""
    try:
        with _file(text) as file:
            return load_space(file)
    except SpaceError as error:
        problems = _listed([problem.what for problem in error.problems] or [str(error)])
        if recorded:
            raise SpaceError(
                f"What {ledger.manifest_file} has recorded of the search space is refused:\n{problems}\n"
                "This version reads it differently: go on with the one that the sweep began with (`code` in that file)."
            ) from error
        raise SpaceError(
            f"The edits of {ledger.space_file} and of {source} do not go together:\n{problems}\n"
            f"Change one of the two; or go on without either, with `{ledger.command('resume')} ARGS=--recorded`."
        ) from error


def _listed(problems: Sequence[str]) -> str:
    return "\n".join(f"  {problem}" for problem in problems)


@contextmanager
def _file(text: str) -> Iterator[Path]:
    """A file with this text, for as long as it is looked at: what reads search spaces reads files."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "space.yaml"
        file.write_text(text, encoding="utf-8")
        yield file


def _data(text: str) -> dict[str, Any]:
    return parse(text, Path("space.yaml")).value


def _today(text: str) -> str:
    """A resolved space as this version writes it: what an option does by default may stand there since."""
    try:
        with _file(text) as file:
            return dump(load_space(file))
    except SpaceError:  # this version does not accept it: then it is compared as it is
        return text


def _refuse(ledger: Ledger, file: Path, changes: list[Edit]) -> None:
    population = _data(ledger.space_file.read_text()).get("stopping", {}).get("scheduler") == "pbt"
    forbidden = [edit for edit in changes if not edit.allowed or (population and edit.path == ("search", "trials"))]
    if not forbidden:
        return
    lines = "\n".join(f"  {edit}" for edit in forbidden)
    space = file.stem if file.parent.resolve() == DEFAULT_DIRECTORY.resolve() else shlex.quote(str(file))
    may = ", ".join(".".join(path) for path in ALLOWED)
    raise SpaceError(
        f"{file} was edited since the sweep {ledger.name!r} began, and what its trials are compared by must stay:\n{lines}\n"
        f"Undo that; or search the new space as another sweep, with `make sweep NAME={space} AS={ledger.name}2"
        f"{ledger.runs_variable}`; or go on without it, with `{ledger.command('resume')} ARGS=--recorded`. "
        f"These may change: {may}."
    )


def _merged(copy: str, source: str, taken: Sequence[Edit]) -> tuple[str, list[Edit]]:
    """The copy with what is taken of the source; and what had to go, since options are of one sampler: where the two have
    different ones, the options are those of the side whose sampler is used."""
    sides = [_data(copy), _data(source)]
    space = _data(copy)
    for edit in taken:
        owner = space.setdefault(edit.path[0], {}) if len(edit.path) == 2 else space
        if edit.after is _GONE:
            owner.pop(edit.path[-1], None)
        else:
            owner[edit.path[-1]] = edit.after
    space = {section: content for section, content in space.items() if content != {}}
    search, dropped = space["search"], []
    fitting = [side["search"]["sampler_options"] for side in sides if side["search"]["sampler"] == search["sampler"]]
    if all(_differ(search["sampler_options"], options) for options in fitting):
        dropped.append(Edit(("search", "sampler_options"), search["sampler_options"], fitting[0]))
        search["sampler_options"] = fitting[0]
    return dump_yaml(space), dropped
