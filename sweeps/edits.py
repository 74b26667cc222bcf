"""A search space edited after its sweep began: what has changed, what of that the sweep takes over, and what it refuses.

A sweep keeps its own copy of the space. Both may be edited: the copy, and the file that the sweep began from. What decides
which trials there are and how they were judged stays as it was; how many, with what and for how long may change.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from lhtx.files import write_atomically
from sweeps.errors import SpaceError
from sweeps.ledger import Ledger
from sweeps.space import SearchSpace, dump, load_space

ALLOWED: tuple[tuple[str, ...], ...] = (
    ("description",),
    ("search", "trials"),
    ("search", "sampler"),
    ("search", "sampler_options"),
    ("resources",),
    ("budget",),
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
        return any(self.path[: len(allowed)] == allowed for allowed in ALLOWED)

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {_shown(self.before)} → {_shown(self.after)}"


def _shown(value: Any) -> str:
    return "nothing" if value is _GONE else str(value)


def edits(before: str, after: str) -> list[Edit]:
    """The keys in which two resolved spaces (`dump`) differ."""
    one, other = (_flat(yaml.safe_load(text)) for text in (before, after))
    return [
        Edit(path, one.get(path, _GONE), other.get(path, _GONE))
        for path in dict.fromkeys([*one, *other])
        if one.get(path, _GONE) != other.get(path, _GONE)
    ]


def _flat(space: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """By path: a section that is a mapping key by key, any other as a whole."""
    return {
        path: value
        for section, content in space.items()
        for path, value in (
            (((section, key), item) for key, item in content.items()) if isinstance(content, dict) else [((section,), content)]
        )
    }


def begun(space: SearchSpace) -> dict[str, str]:
    """What a manifest keeps of a space when its sweep begins: the file, what it said, and what the sweep's own copy says."""
    text = dump(space)
    return {"source": str(space.document.file.resolve()), "said": text, "kept": text}


def keep(ledger: Ledger, space: SearchSpace) -> None:
    """Write what a command has changed to the sweep's copy, and note that it is no edit."""
    text = dump(space)
    write_atomically(ledger.space_file, text)
    record = ledger.manifest()
    if "space" in record:
        ledger.write_manifest({**record, "space": {**record["space"], "kept": text}})


def settle(ledger: Ledger, console: Console, recorded: bool = False) -> SearchSpace:
    """The space to go on with: the sweep's copy, with allowed edits of the copy and of its source. Says what has changed.

    Args: recorded: leave every edit aside; from now on the source as it is now counts as known.

    Raises:
        SpaceError: something was edited that must stay, or the copy can no longer be read.
    """
    record = ledger.manifest()
    known = record.get("space")
    if known is None:  # a sweep from before this was kept
        return ledger.space()
    source = Path(known["source"])
    said = _said(source, known["said"], console)
    if recorded:
        text = known["kept"]
    else:
        copied = edits(_today(known["kept"]), dump(ledger.space()))
        taken = edits(_today(known["said"]), said)
        _refuse(ledger, ledger.space_file, copied)
        _refuse(ledger, source, taken)
        for file, changes in ((ledger.space_file, copied), (source, taken)):
            for edit in changes:
                console.print(Text.assemble(("changed", "yellow"), f" in {file}: {edit}"), soft_wrap=True)
        text = _with(dump(ledger.space()), taken)
    if text != ledger.space_file.read_text():
        write_atomically(ledger.space_file, text)
    space = ledger.space()
    ledger.write_manifest({**record, "space": {**known, "said": said, "kept": dump(space)}})
    return space


def _said(source: Path, before: str, console: Console) -> str:
    """What the source says now; what it said before, if it is gone or is no search space at the moment."""
    if not source.is_file():
        return before
    try:
        return dump(load_space(source))
    except SpaceError as error:
        first = str(error).splitlines()[0]
        console.print(f"{source} is not read: {first}. The sweep goes on with its own copy.", soft_wrap=True)
        return before


def _today(text: str) -> str:
    """A resolved space as this version writes it: what an option does by default may stand there since."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "space.yaml"
        file.write_text(text)
        try:
            return dump(load_space(file))
        except SpaceError:  # this version does not accept it: then it is compared as it is
            return text


def _refuse(ledger: Ledger, file: Path, changes: list[Edit]) -> None:
    forbidden = [edit for edit in changes if not edit.allowed]
    if not forbidden:
        return
    lines = "\n".join(f"  {edit}" for edit in forbidden)
    may = ", ".join(".".join(path) for path in ALLOWED)
    raise SpaceError(
        f"{file} was edited since the sweep {ledger.name!r} began, and what its trials are compared by must stay:\n{lines}\n"
        f"Undo that; or search the new space as another sweep, with `make sweep NAME={file.stem} AS={ledger.name}2"
        f"{ledger.runs_variable}`; or go on without it, with `{ledger.command('resume')} ARGS=--recorded`. "
        f"These may change: {may}."
    )


def _with(text: str, changes: list[Edit]) -> str:
    """A resolved space with these changes."""
    if not changes:
        return text
    space = yaml.safe_load(text)
    for edit in changes:
        owner = space.setdefault(edit.path[0], {}) if len(edit.path) == 2 else space
        if edit.after is _GONE:
            owner.pop(edit.path[-1], None)
        else:
            owner[edit.path[-1]] = edit.after
    return yaml.safe_dump(space, sort_keys=False, allow_unicode=True)
