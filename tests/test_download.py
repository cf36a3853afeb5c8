"""Fetching official files from a server of this machine that is not always kind."""

import gzip
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from harness import plugins
from harness.contract import Remote
from harness.data import disk, download, unpack
from harness.data.source import find
from tests import fake_data

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
MD5 = fake_data.md5(CONTENT)


class Server(ThreadingHTTPServer):
    """Serves `files` by path; how it misbehaves can be set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file": CONTENT}
        self.ranges = True
        self.cut_after: int | None = None
        """Bytes after which it closes the connection, whatever it has announced."""
        self.announces_length = True
        self.asked: list[tuple[str, str | None]] = []
        self.status: list[int] = []
        """Answered first, instead of the file."""

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, given = self.server, self.headers["Range"]
        server.asked.append((self.path, given))
        content = server.files.get(self.path)
        if server.status or content is None:
            self.send_error(server.status.pop() if server.status else 404)
            return
        start = int(given.removeprefix("bytes=").removesuffix("-")) if given and server.ranges else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.announces_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: server.cut_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(server: Server, path: str = "/file", checksum: str = MD5, **more) -> Remote:
    return Remote("Data/raw/file", (server.url(path),), checksum, **more)


def leftovers(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root / "Data" / "raw")) for path in (root / "Data" / "raw").rglob("*"))


@pytest.mark.parametrize("checksum", [MD5, f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"])
@pytest.mark.parametrize("announced", [True, False])
def test_file_comes_whole_and_alone(server, tmp_path, checksum, announced):
    server.announces_length = announced
    seen: list[tuple] = []
    download.fetch(remote(server, checksum=checksum), tmp_path, transfer=lambda *step: seen.append(step))
    assert (tmp_path / "Data" / "raw" / "file").read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["file"]
    total = len(CONTENT) if announced else None
    assert seen[0] == ("downloading file", 0, total)
    assert ("downloading file", len(CONTENT), total) in seen
    assert seen[-1] == ("checking file", len(CONTENT), len(CONTENT))


def test_file_that_is_there_is_not_asked_for(server, tmp_path):
    download.fetch(remote(server), tmp_path)
    download.fetch(remote(server), tmp_path)
    assert len(server.asked) == 1


def half(root: Path, content: bytes) -> None:
    """As an earlier attempt left it."""
    (root / "Data" / "raw").mkdir(parents=True)
    (root / "Data" / "raw" / "file.part").write_bytes(content)


@pytest.mark.parametrize("ranges", [True, False])
def test_half_a_file_is_completed_or_fetched_anew_where_the_server_cannot(server, tmp_path, ranges):
    half(tmp_path, CONTENT[:100_000])
    server.ranges = ranges
    seen: list[tuple] = []
    download.fetch(remote(server), tmp_path, transfer=lambda *step: seen.append(step))
    assert server.asked == [("/file", "bytes=100000-")]
    assert seen[0] == ("downloading file", 100_000 if ranges else 0, len(CONTENT))
    assert (tmp_path / "Data" / "raw" / "file").read_bytes() == CONTENT


def test_whole_file_that_was_not_checked_yet_is_only_checked(server, tmp_path):
    half(tmp_path, CONTENT)
    download.fetch(remote(server), tmp_path)
    assert server.asked == [("/file", f"bytes={len(CONTENT)}-")]
    assert leftovers(tmp_path) == ["file"]


@pytest.mark.parametrize("size", [1000, 400_000])
def test_rest_of_another_file_is_noticed(server, tmp_path, size):
    half(tmp_path, bytes(size))
    download.fetch(remote(server), tmp_path)
    assert (tmp_path / "Data" / "raw" / "file").read_bytes() == CONTENT


def test_cut_connection_is_resumed(server, tmp_path):
    server.cut_after = 70_000
    download.fetch(remote(server), tmp_path)
    assert [given for _, given in server.asked] == [None, *(f"bytes={n}-" for n in (70_000, 140_000, 210_000, 280_000))]
    assert (tmp_path / "Data" / "raw" / "file").read_bytes() == CONTENT


def test_connection_that_is_always_cut_is_said_and_what_came_is_kept(server, tmp_path):
    server.cut_after, server.ranges = 70_000, False
    with pytest.raises(download.DownloadError, match=r"cut after 70,000 of 300,000 bytes; the same command goes on"):
        download.fetch(remote(server), tmp_path)
    assert leftovers(tmp_path) == ["file.part"]
    server.cut_after, server.ranges = None, True
    download.fetch(remote(server), tmp_path)
    assert leftovers(tmp_path) == ["file"]


def test_server_with_a_bad_moment_is_asked_again(server, tmp_path):
    server.status = [503, 500]
    download.fetch(remote(server), tmp_path)
    assert len(server.asked) == 3


def test_missing_file_is_said_at_once(server, tmp_path):
    with pytest.raises(download.DownloadError) as caught:
        download.fetch(remote(server, "/none"), tmp_path)
    assert str(caught.value) == f"{server.url('/none')}: 404 Not Found"
    assert len(server.asked) == 1
    assert leftovers(tmp_path) == []


def test_other_content_is_refused_and_not_kept(server, tmp_path):
    wrong = fake_data.md5(b"another")
    with pytest.raises(download.DownloadError, match=f"gives another file .checksum {MD5} instead of {wrong}"):
        download.fetch(remote(server, checksum=wrong), tmp_path)
    assert leftovers(tmp_path) == []


def test_next_address_is_asked_when_one_fails(server, tmp_path):
    server.files["/wrong"] = b"wrong"
    urls = ("http://127.0.0.1:9/file", server.url("/none"), server.url("/wrong"), server.url("/file"))
    download.fetch(Remote("Data/raw/file", urls, MD5), tmp_path)
    assert (tmp_path / "Data" / "raw" / "file").read_bytes() == CONTENT
    with pytest.raises(download.DownloadError, match=r"9/file: Connection refused; .*none: 404 Not.*; .*wrong gives"):
        download.fetch(Remote("Data/raw/other", urls[:3], MD5), tmp_path)


def test_disk_that_is_too_small_is_noticed_before_anything_is_written(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(disk.NoSpace, match=r"file needs 300\.0 kB, but .* has 1\.0 kB left: .*HARNESS_CACHE"):
        download.fetch(remote(server), tmp_path)


def test_full_disk_is_one_sentence(server, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda number: None)
    real = Path.open

    def full(self, *given, **more):
        file = real(self, *given, **more)
        if self.suffix != ".part" or given[0] == "rb":
            return file
        handle = open("/dev/full", "wb")  # noqa: SIM115 closed by the caller
        handle.seek, handle.truncate = lambda *_: 0, lambda *_: 0  # type: ignore[method-assign, assignment]
        return handle

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(disk.NoSpace, match=r"no space left in .*raw \(No space left on device\): file needs 300\.0 kB"):
        download.fetch(remote(server), tmp_path)


def test_of_many_at_once_one_downloads(server, tmp_path):
    threads = [threading.Thread(target=download.fetch, args=(remote(server), tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(server.asked) == 1
    assert leftovers(tmp_path) == ["file"]


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def tarred(files: dict[str, bytes], *, mode: str = "w:gz") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


FILES = {"batches/one": b"1", "batches/two": b"22", "readme": b"not wanted"}


@pytest.mark.parametrize(("name", "pack"), [("a.zip", zipped), ("a.tar.gz", tarred), ("a.tgz", tarred)])
def test_archive_is_unpacked_and_goes(server, tmp_path, name, pack):
    server.files["/a"] = pack(FILES)
    archive = Remote(f"Data/{name}", (server.url("/a"),), fake_data.md5(server.files["/a"]), gives=("batches",))
    download.fetch(archive, tmp_path)
    download.fetch(archive, tmp_path)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"Data", "Data/batches", "Data/batches/one", "Data/batches/two"}
    assert (tmp_path / "Data" / "batches" / "two").read_bytes() == b"22"
    assert len(server.asked) == 1


def test_archive_that_is_elsewhere_is_unpacked_from_there(server, tmp_path):
    content = tarred(FILES)
    (tmp_path / "readonly").mkdir()
    (tmp_path / "readonly" / "a.tar.gz").write_bytes(content)
    archive = Remote("a.tar.gz", (server.url("/a"),), fake_data.md5(content), gives=("batches",))
    download.fetch(archive, tmp_path / "cache", elsewhere=[tmp_path / "nowhere", tmp_path / "readonly"])
    assert server.asked == []
    assert (tmp_path / "cache" / "batches" / "one").read_bytes() == b"1"
    assert [path.name for path in (tmp_path / "readonly").iterdir()] == ["a.tar.gz"]


def test_archives_in_an_archive_are_unpacked_too(tmp_path):
    file = tmp_path / "all.zip"
    file.write_bytes(zipped({"around/cat.zip": zipped({"cat/1.bin": b"c"}), "around/dog.tgz": tarred({"dog/1": b"d"})}))
    unpack.unpack(file, ("cat", "dog"), tmp_path, lambda done, total: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.zip", "cat", "dog"]
    assert (tmp_path / "dog" / "1").read_bytes() == b"d"


def link(name: str, to: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = tarfile.SYMTYPE, to
        archive.addfile(member)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", zipped({"../evil": b"x"})),
        ("a.zip", zipped({"batches/../../evil": b"x"})),
        ("a.zip", zipped({"/evil": b"x"})),
        ("a.tar", tarred({"../evil": b"x"}, mode="w")),
        ("a.tar", link("batches", "../..")),
        ("a.zip", zipped({"batches/b.zip": zipped({"../../evil": b"x"})})),
    ],
)
def test_archive_that_leads_out_of_its_folder_is_refused(tmp_path, name, content):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be unpacked"):
        unpack.unpack(tmp_path / "in" / name, ("batches",), tmp_path / "in", lambda done, total: None)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", zipped({"other/1": b"x"}), "holds no 'batches'"),
        ("a.zip", zipped(FILES)[:-30], "cannot be unpacked"),
        ("a.tar.gz", tarred({"batches/one": os.urandom(100_000)})[:-50_000], "cannot be unpacked"),
        ("a.tar.gz", b"<html>", "cannot be unpacked"),
        ("a.tar.gz", gzip.compress(b"not a tar", mtime=0), "cannot be unpacked"),
    ],
)
def test_damaged_archive_leaves_nothing(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        unpack.unpack(tmp_path / name, ("batches",), tmp_path, lambda done, total: None)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_dataset_is_downloaded_where_it_is_missing(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "empty"))
    module = plugins.load("datasets", "cifar10")
    fake_data.cifar(tmp_path / "official", module, monkeypatch)
    batches = tmp_path / "official" / "cifar-10-batches-py"
    content = tarred({f"{batches.name}/{file.name}": file.read_bytes() for file in batches.iterdir()})
    server.files["/a"] = content
    official = Remote("cifar-10-python.tar.gz", (server.url("/a"),), fake_data.md5(content), gives=(batches.name,))
    monkeypatch.setattr(module, "FILES", (official,))
    source = find("cifar10")
    assert not source.is_here()
    samples = source.samples()
    assert [len(samples[split]) for split in ("train", "test")] == [30, 6]
    assert source.root() == tmp_path / "cache" / "raw"
    (tmp_path / "cache" / "raw" / batches.name / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match=r"no test_batch in .*: delete what is there of it"):
        source.samples()


@pytest.mark.parametrize("name", plugins.names("datasets"))
def test_official_files_have_addresses_and_checksums(name):
    for official in getattr(plugins.load("datasets", name), "FILES", ()):
        assert official.urls
        assert all(url.startswith(("https://", "http://")) for url in official.urls)
        assert not Path(official.path).is_absolute()
        kind, _, digits = official.checksum.partition(":")
        assert len(digits) == {"md5": 32, "sha256": 64}[kind]
        assert official.path.endswith(unpack.SUFFIXES) == bool(official.gives)
