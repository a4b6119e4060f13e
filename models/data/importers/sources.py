"""Which files a source has, in which form each is, and their rows.

A folder is what `datasets` saved, or holds files named as record kinds, or data files, or texts; of two of these it is not said which is
meant, so one must be named.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from models.core.errors import UserError
from models.core.given import HEAD, foreign, require_file
from models.data import kinds
from models.data.importers import forms, tables, texts
from models.data.importers.forms import Counted, Row

Tell = Callable[[str], None]
PACKED = (".gz", ".zst")
DATA = {".jsonl": "JSON Lines", ".ndjson": "JSON Lines", ".json": "JSON", ".csv": "CSV", ".tsv": "TSV", ".parquet": "Parquet"}
TEXTS = {
    ".txt": "plain text",
    ".text": "plain text",
    ".md": "Markdown",
    ".markdown": "Markdown",
    ".html": "HTML",
    ".htm": "HTML",
    ".xhtml": "HTML",
    ".pdf": "PDF",
}
MAGIC = {"Parquet": "Parquet", "PDF": "PDF"}
HUB = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?(?::[\w.-]+)?")


@dataclass
class Part:
    """A file of a source: its name in it ("" for the only one), its form, and how many of its bytes were read."""

    path: Path
    name: str
    form: str = ""  # "" until it is opened
    layout: str = ""
    is_text: bool = False
    size: int = 0
    counted: Counted | None = field(default=None, repr=False)

    @property
    def done(self) -> int:
        return self.counted.done if self.counted else 0

    def rows(self, tell: Tell) -> Iterator[Row]:
        """The rows one after another. Raises UserError where the file cannot be read, or is in doubt as a whole."""
        self.form = self.form or form_of(self.path, "text" if self.is_text else "")
        if self.form == "a saved data set":
            yield from tables.saved(self.path)
        elif self.form == "a data set of the hub":
            yield from tables.hub(self.name)
        else:
            with forms.unpacked(self.path) as (file, self.counted):
                yield from READERS[self.form](self.path, file, tell)


READERS: dict[str, Callable[..., Iterator[Row]]] = {
    "JSON Lines": forms.json_lines,
    "JSON": forms.json_values,
    "CSV": forms.comma_separated,
    "TSV": forms.tab_separated,
    "Parquet": tables.parquet,
    "plain text": texts.plain,
    "Markdown": texts.plain,
    "HTML": texts.html,
    "PDF": texts.pdf,
}


def parts(source: str, layout: str, tell: Tell) -> list[Part]:
    """The files of a source in the order of their names. Raises UserError where there is nothing that can be read."""
    path = Path(source)
    if os.path.isdir(path):
        return _of_folder(path, layout, tell)
    if not os.path.lexists(path) and HUB.fullmatch(source) and suffix_of(path) not in {**DATA, **TEXTS}:
        return [Part(path, source, "a data set of the hub")]
    require_file(path, "name an existing file or folder, s3://BUCKET/PREFIX, or a data set of the hub, OWNER/NAME")
    form = form_of(path, layout)
    return [Part(path, "", form, is_text=form in TEXTS.values(), size=path.stat().st_size)]


def suffix_of(path: Path) -> str:
    """The end of a name that says what is in the file, without that of its packing."""
    bare = Path(path.stem) if path.suffix.lower() in PACKED else path
    return bare.suffix.lower()


def form_of(path: Path, layout: str = "") -> str:
    """What is in the file: by its first bytes, then by its name, then by its first letter. Raises UserError where nothing says it."""
    with forms.unpacked(path) as (file, _):
        head = file.peek(HEAD)[:HEAD]
    if found := foreign(head):
        if found not in MAGIC:
            again = ", packed twice" if path.suffix.lower() in PACKED else ""
            raise UserError(f"{path} is {found}{again}, must be a plain file in UTF-8: unpack or convert it, then name what comes out")
        return MAGIC[found]
    if not head:
        raise UserError(f"{path} is empty: it holds no record that can be used; nothing was changed")
    suffix, first = suffix_of(path), head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if suffix in (".parquet", ".pdf"):
        raise UserError(f"{path} is no whole {suffix[1:].upper()} file (it begins otherwise): bring it in again")
    if layout == "text":
        return TEXTS.get(suffix, "plain text")
    form = DATA.get(suffix) or TEXTS.get(suffix) or ("" if first not in (b"{", b"[") else "JSON")
    if form in ("JSON", "JSON Lines"):
        return "JSON" if first == b"[" or (form == "JSON" and not _is_object_a_line(head)) else "JSON Lines"
    if not form:
        raise UserError(
            f"{path}: neither its name nor its beginning says what it is; must end in {', '.join((*DATA, *TEXTS))}, "
            "or be named as a text, --layout text"
        )
    return form


def _is_object_a_line(head: bytes) -> bool:
    """Whether an object ends where its line does, or the line is longer than what is seen of it."""
    line, end, _ = head.partition(b"\n")
    return not end or line.rstrip().endswith(b"}")


def _of_folder(folder: Path, layout: str, tell: Tell) -> list[Part]:
    if (folder / "dataset_dict.json").is_file():
        return _of_splits(folder)
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return [Part(folder, "", "a saved data set")]
    named = [_named(folder, kind) for kind in kinds.FIELDS]
    if any(named) and layout in ("", "records"):
        return [part for part in named if part]
    return _of_files(folder, layout, tell)


def _of_splits(folder: Path) -> list[Part]:
    splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
    if len(splits) != 1:
        raise UserError(f"{folder} holds the splits {', '.join(splits) or '(none)'}: name one, such as {folder}/{(splits or ['train'])[0]}")
    return [Part(folder / splits[0], "", "a saved data set")]


def _named(folder: Path, kind: str) -> Part | None:
    """The file of a record kind, as in data/raw. Raises UserError where DVC's pointer to it is there alone."""
    for path in (folder / f"{kind}.jsonl{end}" for end in ("", *PACKED)):
        if os.path.lexists(path):
            require_file(path)
            return Part(path, path.name, form_of(path), layout=f"records:{kind}", size=path.stat().st_size)
    if (folder / f"{kind}.jsonl.dvc").exists():
        raise UserError(f"{folder}/{kind}.jsonl.dvc is here and {kind}.jsonl is not: it must be here to be imported; 'dvc pull' it first")
    return None


def _of_files(folder: Path, layout: str, tell: Tell) -> list[Part]:
    found = sorted(path for path in folder.rglob("*") if not path.is_dir() and not any(map(_is_hidden, path.relative_to(folder).parts)))
    data, prose = ([path for path in found if suffix_of(path) in ends] for ends in (DATA, TEXTS))
    if data and prose and not layout:
        raise UserError(
            f"{folder} holds {len(data)} data files ({data[0].name}, …) and {len(prose)} texts ({prose[0].name}, …): name one file, "
            "or add --layout text for the texts, or the layout of the data files"
        )
    taken = prose if layout == "text" or not data else data
    if not taken:
        raise UserError(
            f"{folder} holds no record that can be used: no file in it ends in {', '.join((*DATA, *TEXTS))}; nothing was changed"
        )
    if others := [path for path in found if path not in set(taken)]:
        tell(
            f"{folder}: {len(others):,} other files are left out: {', '.join(path.name for path in others[:3])}{', …' * (len(others) > 3)}"
        )
    return [Part(path, path.relative_to(folder).as_posix(), is_text=taken is prose, size=path.lstat().st_size) for path in taken]


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def first_rows(rows: Iterator[Row], count: int) -> tuple[list[Row], Iterator[Row]]:
    """The first rows, and all of them."""
    seen = [row for _, row in zip(range(count), rows, strict=False)]
    return seen, chain(seen, rows)
