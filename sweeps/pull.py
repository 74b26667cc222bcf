"""Brings a mirrored sweep to this machine, where it can be resumed, reported and promoted; and sends one by hand.

It knows the copy's files (`mirror.py`), and starts nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from difflib import get_close_matches
from pathlib import Path

import yaml
from rich.console import Console

from lhtx.files import replacing, write_atomically
from sweeps.errors import LedgerError, MirrorError
from sweeps.ledger import Ledger, TrialFiles
from sweeps.mirror import Mirror, mirrored_to, open_mirror
from sweeps.mirror_target import CHUNK_BYTES, Target
from sweeps.relocation import relocated
from sweeps.results_place import VARIABLE, ResultsPlace, chosen, told


def pull(name: str, url: str, root: Path, console: Console) -> None:
    """Copy the sweep `name` from under `url` to `root`: whole, or not at all.

    Raises:
        LedgerError: the directory is there already, or cannot be written.
        MirrorError: there is no such sweep, or it cannot be read.
    """
    ledger = Ledger(name, root)
    if ledger.directory.exists():
        raise LedgerError(
            f"{ledger.directory}/ exists, and is never overwritten: move it away, or choose another root with RUNS=…."
        )
    try:
        base = ResultsPlace.parse(url)
    except ValueError as error:
        raise MirrorError(f"--from {error}.") from None
    target = Target.of(base, name)
    try:
        if target.manifest(ledger.manifest_file.name) is None:
            raise MirrorError(_none(base, name, ledger.manifest_file.name))
        files = target.listed()
        _fetch(target, files, ledger)
    except MirrorError:
        raise
    except Exception as error:  # each file system's library has its own errors
        raise MirrorError(f"{target.place.shown} cannot be copied to {ledger.directory}: {told(error)}.") from error
    size = sum(files.values()) / 2**20
    console.print(
        f"{name}: {len(files)} files, {size:.1f} MiB, from {target.place.shown} to {ledger.directory}", soft_wrap=True
    )
    console.print(f"see it with: {ledger.command('status')}; go on with: {ledger.command('resume')}", soft_wrap=True)


def _none(base: ResultsPlace, name: str, manifest: str) -> str:
    """That there is no such sweep, and which there are."""
    from pyarrow.fs import FileSelector, FileType

    files, path = base.open()
    found = files.get_file_info(FileSelector(path, allow_not_found=True))
    directories = [info.base_name for info in found if info.type == FileType.Directory]
    names = [each for each in directories if files.get_file_info(f"{path}/{each}/{manifest}").type == FileType.File]
    near = get_close_matches(name, names, n=3, cutoff=0.4) or names[:10]
    parent = base.shown.removesuffix(f"/{name}")
    if parent != base.shown and files.get_file_info(f"{path}/{manifest}").type == FileType.File:
        return (
            f"There is no sweep {name!r} at {base.shown}, which is itself one: the directory above is expected, FROM={parent}."
        )
    there = f"There are: {', '.join(near)}." if near else "There is none."
    return f"There is no sweep {name!r} at {base.shown}. {there}"


def _fetch(target: Target, files: dict[str, int], ledger: Ledger) -> None:
    ledger.root.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=".pulling-", dir=ledger.root))
    try:
        draft = Ledger(ledger.name, workshop)
        draft.trials_directory.mkdir(parents=True)
        for name in files:
            path = draft.directory / name
            if ".." in Path(name).parts or any(part.startswith(".") for part in Path(name).parts):
                continue  # a file that is being written there, or none of a sweep's
            path.parent.mkdir(parents=True, exist_ok=True)
            with target.files.open_input_stream(target.at(name)) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
        for directory in sorted(draft.trials_directory.iterdir()):
            relocate(TrialFiles(directory), TrialFiles(ledger.trials_directory / directory.name))
        draft.directory.rename(ledger.directory)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def relocate(files: TrialFiles, place: TrialFiles) -> None:
    """Let a trial's files, which lie in `files`, say that they are at `place`: a checkpoint remembers where it was written, and
    one that is trained on would take its first new epoch for the best one if it did not find its earlier ones."""
    if not files.config.exists():
        return
    text = files.config.read_text()
    before, after = _output(text), str(place.directory.resolve())
    if before in {None, after}:
        return
    import torch

    from lhtx.checkpoints import load_checkpoint
    from lhtx.errors import CheckpointError

    for path in sorted(files.checkpoints.glob("*.ckpt")):
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError:  # it is damaged: whoever needs it says so, and the rest of the sweep is sound
            continue
        checkpoint["callbacks"] = relocated(checkpoint.get("callbacks", {}), before, after)
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)
    write_atomically(files.config, text.replace(before, after))


def _output(config: str) -> str | None:
    """Where a trial with this config wrote."""
    try:
        return str(yaml.safe_load(config)["paths"]["output_dir"])
    except (yaml.YAMLError, KeyError, TypeError):
        return None


def push(name: str, url: str | None, root: Path, console: Console) -> None:
    """Copy a sweep that nobody runs: to `url`, or where its space, the environment or its last copy says.

    Raises:
        LedgerError: somebody runs it.
        MirrorError: nothing says where to, or it cannot be written.
    """
    ledger = Ledger(name, root).require()
    if url is not None:
        try:
            place: ResultsPlace | None = ResultsPlace.parse(url)
        except ValueError as error:
            raise MirrorError(f"--to {error}.") from None
    else:
        results = ledger.space().outputs.results
        place = chosen(results.url if results else None) or mirrored_to(ledger)
    if place is None:
        raise MirrorError(
            f"Nothing says where the sweep {name!r} is to be copied: say it with TO=URL, `results` or {VARIABLE}."
        )
    with ledger.lock():
        mirror: Mirror = open_mirror(place, ledger, 0.0, lambda text: None)
        try:
            mirror.copy()
        except Exception as error:  # each file system's library has its own errors
            raise MirrorError(f"{mirror.target.place.shown} cannot be written: {told(error)}.") from error
    console.print(f"{name} is copied to {mirror.target.place.shown}", soft_wrap=True)
