"""A published benchmark comes in whole and unchanged, or not at all."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from models.core.errors import UserError
from models.score import benchmarks
from models.score import items as kinds
from models.score import suite as suites
from models.score.benchmarks import bring
from tests.suites import file_of

SHARED = Path(__file__).parents[2] / "../shared/data"
with_real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="no folder shared/data beside the repository")
FILES = {
    "mmlu": "benchmarks/mmlu/mmlu.zip",
    "mmlu-continuation": "benchmarks/mmlu/mmlu.zip",
    "gpqa": "benchmarks/gpqa/dataset.zip",
    "gpqa-main": "benchmarks/gpqa/dataset.zip",
    "humaneval": "benchmarks/humaneval/HumanEval.jsonl.gz",
    "math500": "benchmarks/math500/math500.jsonl",
    "crows-pairs": "bias/crows_pairs_anonymized.csv",
}


KNOWN = benchmarks.published()
PUBLISHED = {name: found.published for name, found in KNOWN.items() if found.published is not None}


def known(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    other = KNOWN[name].model_copy(update={"published": PUBLISHED[name].model_copy(update=changes)})
    monkeypatch.setattr(benchmarks, "published", lambda: {**KNOWN, name: other})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which its files can be fetched."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def refused(name: str, source: Path | str, folder: Path) -> str:
    with pytest.raises(UserError) as failure:
        bring(name, str(source), folder)
    assert "\n" not in str(failure.value)
    assert not [path for path in folder.rglob("*") if path.is_file()]
    return str(failure.value)


def test_every_benchmark_has_a_pinned_file() -> None:
    assert set(FILES) == set(PUBLISHED)
    for known_suite in PUBLISHED.values():
        assert known_suite.url.startswith("https://")
        assert all(len(bytes.fromhex(digest)) == 32 for digest in known_suite.sha256)


@with_real_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_file_is_copied_as_it_is(tmp_path: Path, name: str) -> None:
    path = SHARED / FILES[name]
    for source in (path, path.parent):  # the file, then its folder, over what is there
        assert bring(name, str(source), tmp_path) == PUBLISHED[name].items
    copied = file_of(tmp_path / name)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {copied, tmp_path / name / suites.FILE}
    assert copied.read_bytes() == path.read_bytes()
    assert len(kinds.read(copied.parent)) == PUBLISHED[name].items


@with_real_data
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_file_with_one_byte_changed_is_refused(tmp_path: Path, name: str) -> None:
    content = bytearray((SHARED / FILES[name]).read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "changed"
    path.write_bytes(content)
    said = refused(name, path, tmp_path / "suites")
    assert f"has SHA-256 {hashlib.sha256(content).hexdigest()}, must have {PUBLISHED[name].sha256[0]}" in said


def test_a_file_with_the_right_hash_but_fewer_items_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "math500.jsonl"
    path.write_text('{"problem": "1 + 1?", "answer": "2", "subject": "sums", "unique_id": "a"}\n')
    known(monkeypatch, "math500", sha256=[hashlib.sha256(path.read_bytes()).hexdigest()])
    assert "holds 1 items, must hold 500, as published" in refused("math500", path, tmp_path / "suites")


def test_what_stands_beside_the_file_stays_and_what_a_killed_import_left_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "math500.jsonl"
    path.write_text('{"problem": "1 + 1?", "answer": "2", "subject": "sums", "unique_id": "a"}\n')
    known(monkeypatch, "math500", sha256=[hashlib.sha256(path.read_bytes()).hexdigest()], items=1)
    (tmp_path / "suites" / "math500").mkdir(parents=True)
    (tmp_path / "suites" / "math500" / "math500.jsonl.dvc").write_text("outs: []")
    (tmp_path / "suites" / ".import.draft" / "mmlu").mkdir(parents=True)
    assert bring("math500", str(path), tmp_path / "suites") == 1
    assert [path.name for path in (tmp_path / "suites").iterdir()] == ["math500"]
    assert sorted(path.name for path in (tmp_path / "suites" / "math500").iterdir()) == ["math500.jsonl", "math500.jsonl.dvc", "suite.yaml"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "math500.jsonl"
    path.write_text('{"problem": "1 + 1?", "answer": "2", "subject": "sums", "unique_id": "a"}\n')
    known(monkeypatch, "math500", sha256=[hashlib.sha256(path.read_bytes()).hexdigest()], items=1)
    (tmp_path / "suites" / "math500" / "math500.jsonl" / "in the way").mkdir(parents=True)
    assert "cannot be written (Is a directory): nothing was changed" in refused("math500", path, tmp_path / "suites")


def test_a_missing_file_and_an_unknown_suite_are_named(tmp_path: Path) -> None:
    assert "HumanEval.jsonl.gz is missing" in refused("humaneval", tmp_path, tmp_path / "suites")
    address = "https://host/test.jsonl"
    assert f"{address} is an address: must be a file or its folder" in refused("math500", address, tmp_path / "suites")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "/proc/self/mem cannot be read" in refused("math500", Path("/proc/self/mem"), tmp_path / "suites")
    assert "no benchmark is named 'humanevil'; must be one of crows-pairs, " in refused("humanevil", tmp_path, tmp_path / "suites")


def test_mmlu_is_taken_from_its_own_archive_without_the_training_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.tar"
    with tarfile.open(path, "w") as archive:
        for name, count in {"data/test/odd_test.csv": 3, "data/dev/odd_dev.csv": 285, "data/auxiliary_train/race.csv": 9}.items():
            content = b"What?,1,2,3,4,A\n" * count
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    known(monkeypatch, "mmlu", sha256=[hashlib.sha256(path.read_bytes()).hexdigest()], items=3)
    contents = []
    for folder in ("one", "other"):
        assert bring("mmlu", str(path), tmp_path / folder) == 3
        contents.append((tmp_path / folder / "mmlu" / "mmlu.zip").read_bytes())
    assert contents[0] == contents[1]
    with zipfile.ZipFile(tmp_path / "one" / "mmlu" / "mmlu.zip") as packed:
        assert packed.namelist() == ["data/dev/odd_dev.csv", "data/test/odd_test.csv"]


def test_a_benchmark_is_fetched_from_where_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]
) -> None:
    folder, address = served
    file = folder / "test.jsonl"
    file.write_text('{"problem": "1 + 1?", "answer": "2", "subject": "sums", "unique_id": "a"}\n')
    known(monkeypatch, "math500", url=f"{address}/test.jsonl", sha256=[hashlib.sha256(file.read_bytes()).hexdigest()], items=1)
    heard: list[tuple[int, int]] = []
    assert bring("math500", "hub", tmp_path / "suites", lambda done, whole: heard.append((done, whole))) == 1
    assert heard[-1] == (file.stat().st_size, file.stat().st_size)
    assert (tmp_path / "suites" / "math500" / "math500.jsonl").read_bytes() == file.read_bytes()


def test_what_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]) -> None:
    _, address = served
    known(monkeypatch, "math500", url=f"{address}/gone.jsonl")
    assert "gone.jsonl cannot be fetched (HTTP Error 404" in refused("math500", "hub", tmp_path / "suites")
    known(monkeypatch, "math500", url="http://127.0.0.1:9/test.jsonl")
    assert "cannot be fetched (<urlopen error [Errno 111] Connection refused>)" in refused("math500", "hub", tmp_path / "suites")
