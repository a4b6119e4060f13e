"""Published benchmarks: where they are, what they weigh, and the one way they come into data/raw/suites.

A file is taken when its SHA-256 and its number of items are those of the publication, and copied as it is: GPQA stays in its
encrypted zip. MMLU's own archive, data.tar, holds 160 MB of training questions besides: of it the test and dev files are packed anew.
"""

import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from models.core.errors import UserError
from models.core.given import require_file
from models.core.importing import writing
from models.core.records import Record
from models.score import suites

HUB = "hub"
MMLU_SHOTS = 285
TIMEOUT_S, BLOCK_BYTES = 60, 16 << 20
Progress = Callable[[int, int], None]


class Published(Record):
    """A benchmark as its authors give it out."""

    items: int
    licence: str
    url: str = Field(description="where the very file is that sha256 names")
    sha256: tuple[str, ...] = Field(description="of the files that are taken: as published, or repacked by hand and then checked")


_MMLU = Published(
    items=14042,
    licence="MIT",
    url="https://huggingface.co/datasets/cais/mmlu/resolve/c30699e8356da336a370243923dbaf21066bb9fe/data.tar",
    sha256=(
        "bec563ba4bac1d6aaf04141cd7d1605d7a5ca833e38f994051e818489592989b",  # data.tar
        "9e2b2d78bf59d80baf271a13005568ef0aca17bd663f2e5ebfecdc07a68f0edc",  # mmlu.zip: dev, test and val of it
    ),
)
_GPQA = Published(
    items=198,
    licence="CC-BY-4.0",
    url="https://raw.githubusercontent.com/idavidrein/gpqa/56686c06f5e19865c153de0fdb11be3890014df7/dataset.zip",
    sha256=("461ae7329f15a3e35f8184d2dac24b990f34fdf12f366ca4062d8e6638cd08dc",),
)
PUBLISHED: Mapping[str, Published] = {
    "mmlu": _MMLU,
    "mmlu-continuation": _MMLU,
    "gpqa": _GPQA,
    "gpqa-main": _GPQA.model_copy(update={"items": 448}),
    "humaneval": Published(
        items=164,
        licence="MIT",
        url="https://raw.githubusercontent.com/openai/human-eval/6d43fb980f9fee3c892a914eda09951f772ad10d/data/HumanEval.jsonl.gz",
        sha256=("b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",),
    ),
    "math500": Published(
        items=500,
        licence="MIT",
        url="https://huggingface.co/datasets/HuggingFaceH4/MATH-500/resolve/6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be/test.jsonl",
        sha256=("35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",),
    ),
    "crows-pairs": Published(
        items=1508,
        licence="CC-BY-SA-4.0",
        url="https://raw.githubusercontent.com/nyu-mll/crows-pairs/master/data/crows_pairs_anonymized.csv",
        sha256=("dfb36986ce0502abbaf7055b9176da3d08d48e07df1251991b5dfbcbceab9d0c",),
    ),
}


def bring(name: str, source: str, folder: Path, tell: Progress = lambda _done, _all: None) -> int:
    """Bring suite `name` into `folder`/NAME from a file, a folder that holds it, or HUB, and return the number of its items.

    `tell` hears of bytes fetched, of how many (0: unknown). Raises UserError where there is no such suite, or the source is missing,
    out of reach or another than the published one; nothing has changed then.
    """
    if name not in PUBLISHED:
        raise UserError(f"no benchmark is named {name!r}; must be one of {', '.join(PUBLISHED)}: 'sluice suite list' shows them")
    known = PUBLISHED[name]
    if source == HUB:
        with _fetched(known.url, tell) as path:
            return _take(name, known, path, folder)
    return _take(name, known, _found(name, source), folder)


def _found(name: str, source: str) -> Path:
    """The file that is meant: by itself, or by the folder that it is in."""
    wanted = [suites.FORMATS[name].file, Path(PUBLISHED[name].url).name]
    place = Path(source)
    paths = [place / file for file in wanted] if os.path.isdir(place) else [place]
    path = next(filter(os.path.lexists, paths), paths[0])
    if "://" in source and not os.path.lexists(path):
        raise UserError(f"{source} is an address: must be a file or its folder; '--from {HUB}' fetches {PUBLISHED[name].url}")
    require_file(path, f"suite {name} comes as {' or '.join(dict.fromkeys(wanted))}; name that file, its folder, or '{HUB}'")
    return path


@contextmanager
def _fetched(url: str, tell: Progress) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sluice-suite-") as folder:
        path = Path(folder) / Path(url).name
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply, path.open("wb") as file:
                size = int(reply.headers.get("Content-Length") or 0)
                while block := reply.read(BLOCK_BYTES):
                    file.write(block)
                    tell(file.tell(), size)
        except (OSError, ValueError, http.client.HTTPException) as error:  # a URLError is an OSError
            raise UserError(
                f"{url} cannot be fetched ({error}): the network must reach it; or fetch it elsewhere, then --from PATH"
            ) from None
        yield path


def _take(name: str, known: Published, path: Path, folder: Path) -> int:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): it must be readable; see its owner and mode") from None
    if found not in known.sha256:
        raise UserError(
            f"{path} has SHA-256 {found}, must have {' or '.join(known.sha256)}, as published: it is cut short or "
            f"changed; fetch {known.url}"
        )
    target, draft = folder / name, folder / ".import.draft" / name
    try:
        shutil.rmtree(draft.parent, ignore_errors=True)  # of an import that was killed
        with writing(folder):
            draft.mkdir(parents=True)
            copy = draft / suites.FORMATS[name].file
            _repack(path, copy) if tarfile.is_tarfile(path) else shutil.copyfile(path, copy)
        _must_hold(path, "items", len(suites.suite_items(draft)), known.items)
        if suites.FORMATS[name].file == suites.MMLU_FILE:
            _must_hold(path, "dev items", sum(map(len, suites.shots(draft).values())), MMLU_SHOTS)
        with writing(folder):
            target.mkdir(parents=True, exist_ok=True)
            copy.replace(target / copy.name)
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)
    return known.items


def _repack(archive: Path, target: Path) -> None:
    """MMLU's test and dev files in a zip that is the same whenever it is made."""
    with tarfile.open(archive) as packed, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        members = {member.name: member for member in packed.getmembers() if member.isfile()}
        for name in sorted(members):
            file = packed.extractfile(members[name]) if name.endswith(("_dev.csv", "_test.csv")) else None
            if file is not None:
                out.writestr(zipfile.ZipInfo(name), file.read(), zipfile.ZIP_DEFLATED)


def _must_hold(path: Path, what: str, found: int, published: int) -> None:
    if found != published:
        raise UserError(f"{path} holds {found} {what}, must hold {published}, as published: it is changed; fetch it again")
