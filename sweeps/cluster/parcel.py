"""A sweep's directory as text that a job prints: a tar file, packed while the sweep may be running, in base64 with a checksum.

Written on the cluster, read where the sweep was submitted.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TextIO, get_args

from sweeps.cluster.connection import ClusterError
from sweeps.errors import suggestions
from sweeps.ledger import Ledger
from sweeps.places import FILES

Checkpoints = Literal["none", "best", "all"]
BEGIN, END = "-----BEGIN SWEEP-----", "-----END SWEEP"
LINE = 1000
_DERIVED = frozenset({"report", "export", "results.parquet"})
"""What can be made again from the rest, and is left out."""


def check(checkpoints: str) -> None:
    """Raises ClusterError if there is no such choice of checkpoints."""
    if checkpoints not in get_args(Checkpoints):
        raise ClusterError(f"--checkpoints {checkpoints!r}: {suggestions(checkpoints, get_args(Checkpoints))}")


def write(ledger: Ledger, checkpoints: str, stream: TextIO) -> None:
    """Print the sweep. Its study is of one moment; files that are written meanwhile may be newer, as after a kill."""
    check(checkpoints)
    best = _best(ledger) if checkpoints == "best" else None
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", compresslevel=6) as archive, TemporaryDirectory() as scratch:
        for copy in _study(ledger, Path(scratch)):
            archive.add(copy, copy.name)
        for path in sorted(ledger.directory.rglob("*")):
            name = path.relative_to(ledger.directory)
            hidden = any(part.startswith(".") for part in name.parts)
            if hidden or not path.is_file() or name.parts[0] in _DERIVED or (len(name.parts) == 1 and name.stem == "study"):
                continue
            if name.as_posix() == ledger.manifest_file.name and ledger.place.url:
                continue
            if "checkpoints" in name.parts and checkpoints != "all" and (best is None or best not in path.parents):
                continue
            try:
                content = path.read_bytes()
            except FileNotFoundError:  # it has just been replaced or removed
                continue
            entry = tarfile.TarInfo(name.as_posix())
            entry.size, entry.mtime = len(content), int(ledger.manifest_file.stat().st_mtime)
            archive.addfile(entry, io.BytesIO(content))
    content = data.getvalue()
    text = base64.b64encode(content).decode()
    print(BEGIN, file=stream)
    for start in range(0, len(text), LINE):
        print(text[start : start + LINE], file=stream)
    print(f"{END} {hashlib.sha256(content).hexdigest()}-----", file=stream, flush=True)


def _study(ledger: Ledger, scratch: Path) -> list[Path]:
    """Copies, made in `scratch`, of the files that hold the study. One in a database becomes a file, and the manifest says so:
    what is fetched needs no access to it."""
    place = ledger.place
    file, copy = place.file(ledger.directory), scratch / FILES["sqlite" if place.url else place.kind]
    if place.kind == "journal":
        shutil.copyfile(file, copy)  # it only grows, and half a last line is not read
    elif place.kind == "sqlite":
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    else:
        import optuna

        optuna.copy_study(
            from_study_name=ledger.study_name,
            from_storage=ledger.storage,
            to_storage=f"sqlite:///{copy}",
            to_study_name=ledger.name,
        )
        manifest = scratch / ledger.manifest_file.name
        record = {key: value for key, value in ledger.manifest().items() if key not in {"storage", "study"}}
        manifest.write_text(json.dumps(record, indent=2) + "\n")
        return [copy, manifest]
    return [copy]


def _best(ledger: Ledger) -> Path | None:
    """The directory of the best trial."""
    from sweeps.overview import overview

    found = overview(ledger).best
    return ledger.trial(found[0]).directory if found else None


def read(text: str, directory: Path) -> None:
    """Unpack what `write` has printed, among other lines, into `directory`.

    Raises:
        ClusterError: it is not there as a whole.
    """
    begin, end = text.find(f"{BEGIN}\n"), text.rfind(f"{END} ")
    if begin < 0 or end < begin:
        last = [line for line in text.splitlines() if line.strip()][-1:] or ["nothing"]
        raise ClusterError(f"the job that packs the sweep did not come to its end; the last that it printed: {last[0][:300]}")
    content = base64.b64decode("".join(text[begin + len(BEGIN) : end].split()))
    if not text[end:].startswith(f"{END} {hashlib.sha256(content).hexdigest()}-----"):
        raise ClusterError("the sweep was damaged on its way (its checksum is another one): fetch it again.")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        archive.extractall(directory, filter="data")
