"""An import: rows are read, made records of, and written beside their places; at the end all places change together, or none does.

read = imported + left out + quarantined. Left out is what is sound and of no use (two equal answers, a message that was taken back);
quarantined is what is broken, and each such row is written down with file, line and reason. More of those than a share stop the import,
and nothing is changed then. Memory holds one row at a time.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from models.core.display import line
from models.core.errors import UserError
from models.core.given import require_file, unreadable
from models.core.importing import replacing
from models.data import kinds
from models.data.importers import layouts, owners
from models.data.importers.forms import Row
from models.data.importers.layouts import Choice
from models.data.importers.lines import Fault, dumped
from models.data.importers.pairs import LeftOut
from models.data.importers.sources import Part, first_rows, parts

Tell = Callable[[str], None]
EVERY_S = 5.0
SHOWN = 240
"""Characters of a record that is shown."""
ALONE = "no completion of the other label to the same prompt"


@dataclass(frozen=True)
class Wanted:
    """What is asked of an import: the kind of record and the layout, "" where the rows say it; for names that a layout reads the columns
    that are meant; and the largest share of the rows that may be quarantined, 0-1."""

    kind: str = ""
    layout: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    max_quarantined: float = 0.01


@dataclass
class Brought:
    """What came of an import: rows, records by kind, and the files that hold them."""

    owner: str
    read: int = 0
    records: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    first_fault: str = ""
    files: list[Path] = field(default_factory=list)
    faults: Path | None = None

    @property
    def imported(self) -> int:
        """Rows that became records."""
        return self.read - self.left_out.total() - self.quarantined.total()

    @property
    def account(self) -> str:
        """read = imported + left out + quarantined, with the reasons."""
        tails = [
            f"{counts.total():,} {what} ({', '.join(f'{reason}: {count:,}' for reason, count in counts.most_common(5))})"
            for what, counts in (("left out", self.left_out), ("quarantined", self.quarantined))
            if counts
        ]
        return f"{self.read:,} rows read: {', '.join([f'{self.imported:,} imported', *tails])}"


def bring(source: str | Path, raw: Path, wanted: Wanted | None = None, tell: Tell = lambda _line: None, owner: str = "") -> Brought:
    """Bring a file, a folder or a data set of the hub into the folder `raw`, and return what came of it.

    `owner` is what it is called, where the path does not say that. Raises UserError where nothing is there, it is not recognised, it is in
    doubt as a whole, or too much of it is quarantined; nothing has changed then.
    """
    wanted = wanted or Wanted()
    if wanted.kind and wanted.kind not in kinds.FIELDS:
        raise UserError(f"--as {wanted.kind}: no kind of record; must be one of {', '.join(kinds.FIELDS)}")
    found, brought = parts(str(source), wanted.layout, tell), Brought(owner or owners.owner_of(str(source)))
    places, faults = owners.places(brought.owner, raw), owners.quarantine(brought.owner, raw)
    before = {place: (_lines(place), _identity(place)) for place in places.values()}
    with replacing([*places.values(), faults]) as drafts:
        run = _Run(brought, {kind: drafts[place] for kind, place in places.items()}, drafts[faults], wanted, tell)
        for part in found:
            run.take(part, lambda: (sum(one.done for one in found), sum(one.size for one in found)))
        _require_sound(brought, str(source), wanted.max_quarantined)
    brought.files = [place for kind, place in places.items() if brought.records[kind]]
    brought.faults = faults if brought.quarantined else None
    _tell_of(brought, {place: count for place, (count, identity) in before.items() if identity != _identity(place)}, raw, tell)
    return brought


def _lines(place: Path) -> int:
    """How many records are in a file of an earlier import; 0 where there is none. Raises UserError for what is no plain file."""
    if not os.path.lexists(place):
        return 0
    require_file(place)
    try:
        with place.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError as error:
        raise unreadable(place, error) from None


def _identity(place: Path) -> tuple[int, int]:
    """Another one for another file in the same place."""
    return (0, 0) if not place.is_file() else (place.stat().st_ino, place.stat().st_mtime_ns)


def _require_sound(brought: Brought, source: str, most: float) -> None:
    """Raise UserError where too many rows are quarantined, or nothing is left."""
    broken = brought.quarantined.total()
    if broken > most * brought.read:
        more = f"; and {broken - 1:,} more" if broken > 1 else ""
        raise UserError(
            f"{source}: {broken:,} of {brought.read:,} rows are broken ({broken / brought.read:.1%}), at most {most:.1%} may be: "
            f"{brought.first_fault}{more}; mend them, or allow more with --max-quarantined, which lists them; nothing was changed"
        )
    if not brought.records:
        told = f" ({brought.account})" if brought.read else ""
        raise UserError(f"{source}: the source holds no record that can be used{told}; nothing was changed")


def _tell_of(brought: Brought, replaced: Mapping[Path, int], raw: Path, tell: Tell) -> None:
    """Say what an earlier import had, and what stays of another source of that name."""
    for note, count in brought.notes.items():
        if count:
            tell(f"{count:,} {note}, were left out")
    if gone := sum(replaced.values()):
        tell(f"{gone:,} record{'s' * (gone != 1)} of an earlier import of {brought.owner} replaced; rename one source to have both")
    if others := list(owners.namesakes(brought.owner, raw)):
        name = brought.owner.rpartition("/")[2]
        tell(f"another {name} stays: {', '.join(path.relative_to(raw).as_posix() for path in others[:3])}")


class _Run:
    """The files that an import writes, and its count."""

    def __init__(self, brought: Brought, files: Mapping[str, BinaryIO], faults: BinaryIO, wanted: Wanted, tell: Tell) -> None:
        self.brought, self.files, self.faults, self.wanted, self.tell = brought, files, faults, wanted, tell
        self.begun = self.said = time.monotonic()
        self.shown = set[tuple[str, str]]()

    def take(self, part: Part, sizes: Callable[[], tuple[int, int]]) -> None:
        """Import one file of the source. In a folder of texts one that cannot be read is one row, quarantined."""
        try:
            sample, rows = first_rows(_renamed(part.rows(self.tell), self.wanted.columns), layouts.SAMPLE)
            self._write(part, self._choice(part, sample), rows, sizes)
        except UserError as error:
            if not (part.is_text and part.name):
                raise
            self.brought.read += 1
            self._quarantine(self._place(part), 0, Fault(str(error).removeprefix(str(part.path)).lstrip(" ,").partition(":")[0]))

    def _place(self, part: Part) -> str:
        """What ids of this file's records begin with."""
        return f"{self.brought.owner}/{part.name}" if part.name else self.brought.owner

    def _choice(self, part: Part, sample: list[Row]) -> Choice | None:
        """How the file's rows become records; None where it is not said, and no row has a value to see it by."""
        values, kind = [row.value for row in sample if row.value is not None], self.wanted.kind
        for name, column in self.wanted.columns.items():
            if values and not any(name in value for value in values):
                raise UserError(f"--map {name}={column}: {part.path} has no column {column}; it has {', '.join(map(str, values[0]))}")
        if layout := "text" if part.is_text else part.layout or self.wanted.layout:
            return layouts.named(layout, kind)
        return layouts.recognise(values, kind, str(part.path)) if values else None

    def _write(self, part: Part, choice: Choice | None, rows: Iterator[Row], sizes: Callable[[], tuple[int, int]]) -> None:
        brought, place = self.brought, self._place(part)
        for row in rows:
            brought.read += 1
            if not brought.read % 1000:
                self._say_progress(sizes)
            try:
                if row.value is None or choice is None:
                    raise row.fault or Fault("of no layout that is known")
                records = self._records(row, choice, place)
            except LeftOut as why:
                brought.left_out[str(why)] += 1
            except Fault as fault:
                self._quarantine(place, row.line, fault)
            else:
                for kind, record in records:
                    self.files[kind].write(dumped(record))
                    brought.records[kind] += 1
                if records and (part.form, choice.layout.name) not in self.shown:
                    self._show(part, choice, row.value, records)
        if alone := getattr(choice and choice.make, "alone", 0):
            brought.left_out[ALONE] += alone

    def _records(self, row: Row, choice: Choice, place: str) -> list[tuple[str, dict[str, Any]]]:
        """The records that a row becomes, by kind. Raises Fault where one is none, LeftOut where there is none to be had."""
        found = []
        for kind, name, record in choice.make(row.value or {}, self.brought.notes):
            if kind in choice.kinds:
                made = {"id": f"{place}/{name or row.line}", **record}
                if choice.layout.name != "records" and "source" in kinds.FIELDS[kind]:
                    made["source"] = self.brought.owner
                if kind == "prompts":
                    made |= {key: value for key in kinds.CHECKS if isinstance(value := (row.value or {}).get(key), str)}
                if wrong := kinds.fault(kind, made):
                    raise Fault(f"no record of {kind}", wrong)
                found.append((kind, made))
        return found

    def _quarantine(self, place: str, line: int, fault: Fault) -> None:
        """Write down what is not taken: where it is and why, never what it says."""
        self.brought.quarantined[fault.reason] += 1
        where = place.removeprefix(self.brought.owner).lstrip("/")
        self.brought.first_fault = self.brought.first_fault or ", ".join(filter(None, (where, f"line {line}" * (line > 0)))) + f": {fault}"
        self.faults.write(dumped({"file": place, "line": line, "reason": str(fault)}))

    def _show(self, part: Part, choice: Choice, value: Mapping[str, Any], records: list[tuple[str, dict[str, Any]]]) -> None:
        """Say how the rows were understood, by the first of them."""
        self.shown.add((part.form, choice.layout.name))
        self.tell(f"{part.path}: {part.form}, {choice.layout.name} ({choice.layout.columns}), to {', '.join(choice.kinds)}")
        self.tell(f"  before  {line(value, SHOWN)}")
        self.tell(f"  after   {line(records[0][1], SHOWN)}")

    def _say_progress(self, sizes: Callable[[], tuple[int, int]]) -> None:
        now = time.monotonic()
        if now - self.said >= EVERY_S:
            done, size = sizes()
            of = f", {done / 1e6:,.0f} of {size / 1e6:,.0f} MB, {done / 1e6 / (now - self.begun):.0f} MB/s" if size else ""
            self.tell(f"{self.brought.read:,} rows{of}")
            self.said = now


def _renamed(rows: Iterator[Row], columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows with the columns under the names that layouts read."""
    if not columns:
        return rows
    backwards = {column: name for name, column in columns.items()}
    return (
        row if row.value is None else Row(row.line, {backwards.get(key, key): value for key, value in row.value.items()}) for row in rows
    )
