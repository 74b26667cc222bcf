"""Fetching and unpacking: only what is whole and has the right checksum appears, and nothing outside the directory."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from lhtx.data.download import base_urls, check_md5, fetch, unpack
from lhtx.errors import ConfigError, DatasetError

CONTENT = bytes(range(256)) * 20
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server that gives /whole/…, breaks /short/… off, and knows nothing else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith(("/whole/", "/short/")):
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.path.startswith("/whole/") else CONTENT[:1000])

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_the_first_mirror_that_has_it_whole_gives_it(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/missing", f"{server}/short/", f"{server}/whole/", "http://never.asked.invalid"]
    file = fetch("a.gz", MD5, mirrors, tmp_path)
    assert file == tmp_path / "a.gz"
    assert file.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [file]


def test_mirrors_are_base_urls() -> None:
    default = ["https://a.example/x", "https://b.example/x"]
    assert base_urls(None, default) == default
    assert base_urls("file:///there", default) == base_urls(["file:///there"], default) == ["file:///there"]
    for wrong in ("/no/url", ["https://a.example", 3]):
        with pytest.raises(
            ConfigError, match=r"mirrors holds .*; expected base URLs, such as https://a.example/x, or null for"
        ):
            base_urls(wrong, default)


def test_every_failure_is_told_and_nothing_stays(server: str, tmp_path: Path) -> None:
    mirrors = [f"{server}/missing", f"{server}/short", (tmp_path / "none").as_uri(), "no url"]
    with pytest.raises(DatasetError) as error:
        fetch("a.gz", MD5, mirrors, tmp_path)
    for words in (
        f"{server}/missing/a.gz: HTTP Error 404",
        f"{server}/short/a.gz: got 1000 of 5120 bytes",
        "none/a.gz: <urlopen error",
        "no url/a.gz: unknown url type",
    ):
        assert words in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_another_checksum_is_refused_with_both(server: str, tmp_path: Path) -> None:
    wrong = "0" * 32
    with pytest.raises(DatasetError, match=f"got 5120 bytes with the MD5 checksum {MD5}; expected {wrong}"):
        fetch("a.gz", wrong, [f"{server}/whole"], tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").write_bytes(CONTENT)
    check_md5(tmp_path / "a", MD5)
    with pytest.raises(
        DatasetError, match=f"a: damaged or cut short: 5120 bytes with the MD5 checksum {MD5}; expected {wrong}"
    ):
        check_md5(tmp_path / "a", wrong)


def _archive(file: Path, members: dict[str, bytes | str]) -> Path:
    """A tar.gz of files, and of symbolic links where the content is a text."""
    with tarfile.open(file, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file


def test_only_the_named_files_come_out(tmp_path: Path) -> None:
    members = {"set/one": b"1", "../outside": b"!", "/tmp/absolute": b"!", "./set/two": b"22", "set/readme": b"?", "link": ".."}
    archive = _archive(tmp_path / "a.tar.gz", members)
    unpack(archive, ["set/one", "set/two"], tmp_path / "in" / "here")
    assert {file.name: file.read_bytes() for file in (tmp_path / "in" / "here").iterdir()} == {"one": b"1", "two": b"22"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar.gz", "in"]


def test_a_name_that_leads_out_is_kept_in(tmp_path: Path) -> None:
    unpack(_archive(tmp_path / "a.tar.gz", {"../../evil": b"!"}), ["../../evil"], tmp_path / "in" / "here")
    assert [file.name for file in (tmp_path / "in" / "here").iterdir()] == ["evil"]


@pytest.mark.parametrize("content", [{"set/one": b"1"}, {"set/one": b"1", "set/two": "/etc/passwd"}])
def test_a_missing_file_is_named(tmp_path: Path, content: dict) -> None:
    with pytest.raises(DatasetError, match=r"a.tar.gz: has no set/two$"):
        unpack(_archive(tmp_path / "a.tar.gz", content), ["set/one", "set/two"], tmp_path / "in")


def test_an_archive_that_ends_early_is_refused(tmp_path: Path) -> None:
    archive = _archive(tmp_path / "a.tar.gz", {"one": bytes(10_000), "two": CONTENT})
    for kept in (archive.read_bytes()[:-200], archive.read_bytes()[:40], b"", b"<html>not found</html>"):
        archive.write_bytes(kept)
        with pytest.raises(DatasetError, match=rf"a.tar.gz: not readable as a tar archive \({len(kept)} bytes\)|has no"):
            unpack(archive, ["one", "two"], tmp_path / "in")
    assert not (tmp_path / "in" / "two").exists()
