"""Published files, fetched and checked: a file appears under its name complete and with the right checksum, or not at all.

Knows no dataset. Whoever fetches holds the lock of the directory (`lhtx.data.writer.dataset_lock`).
"""

import hashlib
import shutil
import sys
import tarfile
import zlib
from collections.abc import Collection, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import urlopen

from lhtx.errors import ConfigError, DatasetError
from lhtx.files import ensure_directory, replacing

TIMEOUT = 20.0
"""Seconds that a server may be silent."""
CHUNK = 2**20


def base_urls(mirrors: str | Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The URLs that a config's `mirrors` names, None being `default`; raises `ConfigError` for what is no URL."""
    urls = list(default) if mirrors is None else [mirrors] if isinstance(mirrors, str) else list(mirrors)
    for url in urls:
        if not isinstance(url, str) or not urlparse(url).scheme:
            raise ConfigError(
                f"mirrors holds {url!r}; expected base URLs, such as {default[0]}, or null for {', '.join(default)}"
            )
    return urls


def fetch(name: str, md5: str, mirrors: Sequence[str], directory: Path) -> Path:
    """Download `name` into `directory` from the first of the base URLs that has it whole; returns the file.

    Raises `DatasetError` with every URL and what was wrong with it: not reachable, fewer bytes than announced, another
    MD5 checksum than `md5`.
    """
    file = directory / name
    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{name}"
        print(f"fetching {url}", file=sys.stderr, flush=True)
        try:
            with replacing(file) as partial:
                _download(url, md5, partial)
            return file
        except (OSError, HTTPException, ValueError) as error:  # ValueError: also what urllib makes of a URL that is none
            failures.append(f"{url}: {error}")
    raise DatasetError("; ".join(failures) or "there is no URL to fetch it from")


def check_md5(file: Path, md5: str) -> None:
    """Raise `DatasetError` with both checksums unless the file has this one."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise DatasetError(
            f"{file}: damaged or cut short: {file.stat().st_size} bytes with the MD5 checksum {found}; expected {md5}. "
            "Delete it, so that it is fetched again"
        )


def unpack(archive: Path, members: Collection[str], directory: Path) -> None:
    """Take the named regular files, and nothing else, out of a tar archive; each goes into `directory` under its last name.

    No name that the archive gives is ever written to. Raises `DatasetError` for one that it cannot be read to the end, or
    that lacks a file.
    """
    ensure_directory(directory, f"the place of what {archive.name} holds")
    missing = set(members)
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                if name in missing and member.isfile():
                    with replacing(directory / Path(name).name) as partial, partial.open("wb") as target:
                        shutil.copyfileobj(tar.extractfile(member), target, CHUNK)
                    missing.discard(name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DatasetError(f"{archive}: not readable as a tar archive ({archive.stat().st_size} bytes): {error}") from error
    if missing:
        raise DatasetError(f"{archive}: has no {', '.join(sorted(missing))}")


def _download(url: str, md5: str, target: Path) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    with urlopen(url, timeout=TIMEOUT) as answer, target.open("wb") as stream:
        announced = answer.headers.get("Content-Length")
        while chunk := answer.read(CHUNK):
            size += len(chunk)
            digest.update(chunk)
            stream.write(chunk)
    if announced is not None and size != int(announced):
        raise DatasetError(f"got {size} of {announced} bytes")
    if digest.hexdigest() != md5:
        raise DatasetError(f"got {size} bytes with the MD5 checksum {digest.hexdigest()}; expected {md5}")
