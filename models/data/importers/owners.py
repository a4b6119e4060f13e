"""What an import is called, and the places that are its own: no two imports write one file, and to import again replaces just these.

An owner is FOLDER/NAME, the last two parts of the source's path: the same on every machine where the path ends alike.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from models.core.given import whole
from models.data import kinds

UNSAFE = re.compile(r"[^\w.,=@ -]|^\.")
"""Letters that a file's name need not have, `+` among them: it stands between folder and name."""
LONGEST = 180
"""Bytes of a file's name; file systems take 255, with what drafts and pointers add."""


def owner_of(source: str) -> str:
    """FOLDER/NAME, in whichever Unicode form the file system keeps it; BUCKET/NAME and OWNER/NAME where the source is no path."""
    scheme, _, rest = source.rpartition("://")
    place = Path(rest if scheme else os.path.abspath(source))
    return whole(unicodedata.normalize("NFC", f"{place.parent.name or '-'}/{place.name or '-'}"))


def file_of(owner: str) -> str:
    """FOLDER+NAME.jsonl: one name for each owner, and another for every other."""
    name = "+".join(UNSAFE.sub(_escaped, part) for part in owner.split("/"))
    if len(name.encode()) > LONGEST:
        digest = hashlib.md5(owner.encode(), usedforsecurity=False).hexdigest()[:12]
        name = f"{name.encode()[: LONGEST - 13].decode(errors='ignore')}-{digest}"
    return f"{name}.jsonl"


def _escaped(found: re.Match[str]) -> str:
    """Letters as web addresses have them."""
    return "".join(f"%{byte:02X}" for byte in found[0].encode())


def places(owner: str, raw: Path) -> dict[str, Path]:
    """Where the owner's records of each kind are."""
    return {kind: raw / kind / file_of(owner) for kind in kinds.FIELDS}


def quarantine(owner: str, raw: Path) -> Path:
    """Where it is written down which rows of the owner's source were not taken: beside data/raw, so that no stage depends on it."""
    return raw.parent / "quarantine" / file_of(owner)


def namesakes(owner: str, raw: Path) -> Iterator[Path]:
    """Yield the files of imports of another source of that name: from a folder that is called otherwise."""
    own = file_of(owner)
    for kind in kinds.FIELDS:
        for path in sorted((raw / kind).glob("*.jsonl")):
            if path.name != own and path.name.rpartition("+")[2] == own.rpartition("+")[2]:
                yield path
