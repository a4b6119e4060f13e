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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from models.core.errors import UserError
from models.core.records import require_file, writing
from models.score import items
from models.score import suite as suites

HUB = "hub"
TIMEOUT_S, BLOCK_BYTES = 60, 16 << 20
Progress = Callable[[int, int], None]


def published() -> dict[str, suites.TabledSuite]:
    """The benchmarks that are brought in by name: what each is, where it is published, and which bytes it must be."""
    known = suites.catalogue().items()
    return {name: described for name, described in known if not isinstance(described, suites.HarnessSuite) and described.published}


def bring(name: str, source: str, folder: Path, tell: Progress = lambda _done, _all: None) -> int:
    """Bring suite `name` into `folder`/NAME from a file, a folder that holds it, or HUB, and return the number of its items.

    `tell` hears of bytes fetched, of how many (0: unknown). Raises UserError where there is no such suite, or the source is missing,
    out of reach or another than the published one; nothing has changed then.
    """
    known = published()
    if name not in known:
        raise UserError(f"no benchmark is named {name!r}; must be one of {', '.join(known)}: 'sluice suite list' shows them")
    described = known[name]
    if source == HUB:
        with _fetched(_facts(described).url, tell) as path:
            return _take(name, described, path, folder)
    return _take(name, described, _found(name, described, source), folder)


def _facts(described: suites.TabledSuite) -> suites.Published:
    assert described.published is not None
    return described.published


def _found(name: str, described: suites.TabledSuite, source: str) -> Path:
    """The file that is meant: by itself, or by the folder that it is in."""
    url = _facts(described).url
    wanted = [described.items.file, Path(url).name]
    place = Path(source)
    paths = [place / file for file in wanted] if os.path.isdir(place) else [place]
    path = next(filter(os.path.lexists, paths), paths[0])
    if "://" in source and not os.path.lexists(path):
        raise UserError(f"{source} is an address: must be a file or its folder; '--from {HUB}' fetches {url}")
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


def _take(name: str, described: suites.TabledSuite, path: Path, folder: Path) -> int:
    known = _facts(described)
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
    draft = folder / ".import.draft" / name
    try:
        shutil.rmtree(draft.parent, ignore_errors=True)  # of an import that was killed
        with writing(folder):
            draft.mkdir(parents=True)
            copy = draft / described.items.file
            _repack(path, copy) if tarfile.is_tarfile(path) else shutil.copyfile(path, copy)
            shutil.copyfile(suites.CATALOGUE / f"{name}.yaml", draft / suites.FILE)
        _must_hold(path, "items", len(items.read(draft)), known.items)
        if known.shots is not None:
            assert described.shots is not None
            every = described.model_copy(update={"shots": described.shots.model_copy(update={"count": known.shots})})
            _must_hold(path, "dev items", sum(len(group) for group in items.shots(draft, every).values()), known.shots)
        put(draft, folder / name)
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)
    return known.items


def put(draft: Path, target: Path) -> None:
    """Put a draft's files into a suite's folder, suite.yaml last: without it a folder is no suite."""
    with writing(target.parent):
        target.mkdir(parents=True, exist_ok=True)
        (target / suites.FILE).unlink(missing_ok=True)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == suites.FILE):
            file.replace(target / file.name)


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
