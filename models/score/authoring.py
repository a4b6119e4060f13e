"""A suite of one's own: what a file's columns are, and the suite.yaml that says so."""

import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from models.core.errors import UserError
from models.core.given import require_file
from models.core.importing import writing
from models.score import harness
from models.score import items as kinds
from models.score import suite as suites
from models.score.benchmarks import put
from models.score.items import LETTERS, Item
from models.score.suite import Suite, Table
from models.score.tables import Row, column_names, is_untyped, rows

PARTS: Mapping[str, tuple[str, ...]] = {  # a part of an item, and the columns that mostly hold it
    "question": ("question", "query", "problem", "stem", "prompt", "instruction", "input", "text", "sentence", "review", "content", "ctx"),
    "choices": ("choices", "options", "endings", "candidates"),
    "answer": ("answer", "answers", "answerKey", "label", "target", "gold", "correct", "correct_answer", "ideal", "output", "solution"),
    "text": ("text", "content", "document", "body"),
    "subject": ("subject", "category", "topic", "domain"),
    "id": ("id", "ID", "question_id", "qid", "unique_id", "idx", "uid", "key"),
}
ASKED: Mapping[str, tuple[str, ...]] = {
    "choice": ("question", "choices", "answer"),
    "exact": ("question", "answer"),
    "math": ("question", "answer"),
    "code": (),
    "text": ("text",),
    "labels": ("question", "answer"),
}
CODE_COLUMNS = {"prompt", "entry_point", "canonical_solution", "test"}
COLUMN_OF_CHOICE = re.compile(r"(.*?)[ _-]?([A-Ha-h]|\d)")
WRONG = re.compile(r"(?i)(?:incorrect|wrong|distractor)[ _-]?(?:answer)?[ _-]?\d*")
MOST_LABELS = 50


def describe(name: str, path: Path, form: str, given: Mapping[str, Any], mapped: Mapping[str, str]) -> dict[str, Any]:
    """What suite.yaml says of a file of rows. `given` is what the user said; `mapped` names columns, by part.

    Raises UserError where a part of an item could be several columns, or none.
    """
    table = Table(file=path.name)
    found = [row for _, _, row in rows(path.parent, table)]
    if not found:
        raise UserError(f"{path} holds no row: a suite must have at least one item")
    form = form or _format(found[0])
    if form not in ASKED:
        raise UserError(f"format is {form!r}, must be one of {', '.join(ASKED)}")
    described: dict[str, Any] = {"format": form, **given}
    columns = _Columns(list(found[0]), mapped, path)
    fields = {
        part: column for part in (*ASKED[form], "subject", "id") if (column := columns.of(part, part in ASKED[form], form)) is not None
    }
    if form == "choice":
        described |= _choice(name, found, fields, path)
    if form == "labels" and "labels" not in described:
        described["labels"] = _labels(found, str(fields["answer"]), path)
    if fields.get("id") and len({str(row.get(fields["id"])) for row in found}) < len(found):  # type: ignore[arg-type]
        del fields["id"]  # a column of that name that does not tell items apart
    own = {part: column for part, column in fields.items() if column != part}
    return {**described, "items": path.name, **({"fields": own} if own else {})}


def _format(row: Row) -> str:
    """What a row is, where that can be seen."""
    if set(row) >= CODE_COLUMNS:
        return "code"
    names = set(row)
    if names & set(PARTS["choices"]) or _choice_columns(list(row)):
        return "choice"
    if not names & set(PARTS["answer"]) and names & set(PARTS["text"]):
        return "text"
    raise UserError(f"columns {column_names(row)}: which format they are cannot be seen; name it, --format {'|'.join(ASKED)}")


class _Columns:
    """The columns of a file, and which part of an item each holds."""

    def __init__(self, names: Sequence[str], mapped: Mapping[str, str], path: Path) -> None:
        self.names, self.mapped, self.path = names, mapped, path
        for part, column in mapped.items():
            if part not in PARTS or any(one not in names for one in column.split(",")):
                known = f"parts: {', '.join(PARTS)}; columns of {path.name}: {column_names(names)}"
                raise UserError(f"--map {part}={column}: must be PART=COLUMN, of choices COLUMN,COLUMN,…; {known}")

    def of(self, part: str, needed: bool, form: str) -> str | list[str] | None:
        """The column of a part, or the columns of the choices; None where there is none and none is needed."""
        if part in self.mapped:
            columns = self.mapped[part].split(",")
            return columns if len(columns) > 1 else columns[0]
        found = [name for name in PARTS[part] if name in self.names]
        if part == "choices" and not found:
            found_columns = _choice_columns(self.names)
            if found_columns:
                return found_columns
        if len(found) > 1 and part not in found and needed:
            raise UserError(f"{self.path}: {part} may be {' or '.join(found)}: say which, --map {part}={found[0]}")
        if found:
            return part if part in found else found[0]
        if not needed:
            return None
        raise UserError(
            f"{self.path}: no column is known to hold {part}, which an item of format {form} has; name it, --map {part}=COLUMN; "
            f"columns: {column_names(self.names)}"
        )


def _choice_columns(names: Sequence[str]) -> list[str]:
    """Columns that are choices: A, B, C, D; option_1, option_2; or the right answer before those that are called wrong."""
    wrong = [name for name in names if WRONG.fullmatch(str(name))]
    right = [name for name in names if str(name).lower().replace(" ", "_") in ("correct_answer", "correct", "right_answer", "best_answer")]
    if wrong and len(right) == 1:
        return [right[0], *wrong]
    groups: dict[str, list[str]] = {}
    for name in names:
        match = COLUMN_OF_CHOICE.fullmatch(str(name))
        if match:
            groups.setdefault(match[1], []).append(name)
    longest = max(groups.values(), key=len, default=[])
    return longest if len(longest) > 1 else []


def _choice(name: str, found: Sequence[Row], fields: dict[str, Any], path: Path) -> dict[str, Any]:
    """How the right choice is told, seen in all rows."""
    columns = fields["choices"]
    if isinstance(columns, list) and columns[0] == fields.get("answer"):
        del fields["answer"]
        return {"answer": "first", "shuffle": name}
    values = [row.get(fields["answer"]) for row in found]
    counts = [len(columns) if isinstance(columns, list) else _count(row.get(columns)) for row in found]
    return {"answer": _told(values, counts, path)}


def _count(value: Any) -> int:
    listed = kinds.listed(value)
    return len(listed) if isinstance(listed, list) else 0


def _told(values: Sequence[Any], counts: Sequence[int], path: Path) -> str:
    """Whether right choices are told by letter, by number from 0 or from 1, or by their text."""
    words = [str(value).strip() for value in values]
    if all(word.upper() in LETTERS[:count] and len(word) == 1 for word, count in zip(words, counts, strict=True)):
        return "letter"
    untyped = is_untyped(Table(file=path.name))
    if all((untyped or not isinstance(value, str)) and kinds.WHOLE.fullmatch(word) for value, word in zip(values, words, strict=True)):
        numbers = [int(word) for word in words]
        from_one = all(1 <= number <= count for number, count in zip(numbers, counts, strict=True))
        from_zero = all(number < count for number, count in zip(numbers, counts, strict=True))
        if from_one and from_zero:
            raise UserError(f"{path}: whether answers count from 0 or from 1 cannot be seen; say so, --answer index or --answer number")
        if from_one or from_zero:
            return "number" if from_one else "index"
    return "text"


def _labels(found: Sequence[Row], column: str, path: Path) -> list[str]:
    labels = sorted({str(row.get(column)) for row in found})
    if not 2 <= len(labels) <= MOST_LABELS:
        raise UserError(f"{path}: {column} holds {len(labels)} different values, labels must be 2 to {MOST_LABELS}: is it format exact?")
    return labels


def text(described: Mapping[str, Any], name: str) -> str:
    """The description as suite.yaml."""
    yaml, stream = YAML(), io.StringIO()
    yaml.default_flow_style, yaml.width = None, 140
    yaml.dump(json.loads(json.dumps(described)), stream)
    head = f"# {name}: data/README.md says what may stand here; 'sluice suite show {name}' prints what a model will see.\n"
    return head + stream.getvalue()


def create(name: str, described: Mapping[str, Any], files: Sequence[Path], raw: Path) -> tuple[Suite, list[Item]]:
    """Put a suite and its files into `raw`/NAME, once all of its items can be read; nothing has changed where they cannot.

    Raises UserError where suite.yaml or an item is none.
    """
    suites.check_name(name)
    draft = raw / ".new.draft" / name
    try:
        shutil.rmtree(draft.parent, ignore_errors=True)  # of one that was killed
        with writing(raw):
            draft.mkdir(parents=True)
            for file in files:
                require_file(file)
                shutil.copyfile(file, draft / file.name)
            (draft / suites.FILE).write_text(text(described, name), encoding="utf-8")
        try:
            loaded = suites.load(draft), harness.read(draft)
        except UserError as error:
            raise UserError(str(error).replace(f"{draft}/", "").replace(str(draft), name)) from None
        put(draft, raw / name)
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)
    return loaded


def facts(described: Suite, suite_items: Sequence[Item]) -> Iterator[tuple[str, str]]:
    """(what, how much) of a suite, for people."""
    form = described.format
    how = {"choice": f", by {getattr(described, 'by', '')}", "labels": f", by {getattr(described, 'by', '')}"}.get(form, "")
    yield "asked", f"{form}{how}{', in chat' if described.chat else ''}"
    subjects = {item.subject for item in suite_items} - {kinds.NO_SUBJECT}
    yield "items", f"{len(suite_items):,}" + (f" of {len(subjects)} subjects" if subjects else "")
    metric = getattr(described, "metric", None)
    if metric:
        yield "metric", str(metric)
    yield "chance", f"{kinds.chance(suite_items, described):.3f}"
    if described.licence:
        yield "licence", described.licence
