"""suite.yaml: what a suite is and how it is asked. It lies in the suite's folder, beside the files that it names.

format    an item                               how it is asked, and what is right
choice    a question and its choices            the likeliest choice, by its letter or by its own text
exact     a question and its right answers      an answer is written; what is extracted of it is one of them
math      a problem and its answer in LaTeX     an answer is written; the last box means the same
code      HumanEval's fields                    a program is written; it passes the tests
text      a text                                nothing is asked: how well it is foreseen, in bits per byte
labels    a text and its label                  the likeliest label, or the one that is written
lm_eval   whatever the task says                a task file of lm-eval, or the name of one in the installed package

The folder's name is the suite's name. All but `about`, `licence` and `published` may move a score, and is part of a score's identity.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from models.core.errors import UserError
from models.core.given import read_text
from models.core.records import Record

FILE = "suite.yaml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RAW = Path("data/raw/suites")
CATALOGUE = Path(__file__).with_name("catalogue")
PLAIN_STOPS = ["\n"]
CODE_STOPS = [
    *("\nclass ", "\ndef ", "\n@", "\n#", "\nif ", "\nfor ", "\nwhile ", "\nprint", "\nassert", "\nimport ", "\nfrom ", "\n```"),
    *('\n"""', "\n<"),
]
LETTER_PROMPT = (
    "{% for shot in shots %}{{ shot.question.strip() }}\n"
    "{% for choice in shot.choices %}{{ letters[loop.index0] }}. {{ choice }}\n{% endfor %}Answer: {{ letters[shot.answer] }}\n\n"
    "{% endfor %}{{ question.strip() }}\n"
    "{% for choice in choices %}{{ letters[loop.index0] }}. {{ choice }}\n{% endfor %}Answer:"
)
TEXT_PROMPT = (
    "{% for shot in shots %}Question: {{ shot.question.strip() }}\nAnswer: {{ right(shot) }}\n\n{% endfor %}"
    "Question: {{ question.strip() }}\nAnswer:"
)
CHAT_PROMPT = (
    "{% for shot in shots %}Question: {{ shot.question.strip() }}\nAnswer: {{ right(shot) }}\n\n{% endfor %}"
    "{% if shots %}Question: {% endif %}{{ question.strip() if shots else question }}"
)
LABELS_PROMPT = (
    "{% for shot in shots %}{{ shot.question.strip() }}\nLabel ({{ labels | join(', ') }}): {{ right(shot) }}\n\n{% endfor %}"
    "{{ question.strip() }}\nLabel ({{ labels | join(', ') }}):"
)
MATH_PROMPT = "{{ question.strip() }}\n\nReason step by step, and put your final answer within \\boxed{}."


def _file(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


def _plain_name(value: str) -> str:
    if Path(value).is_absolute() or ".." in Path(value).parts:
        raise ValueError("must be a file inside the suite's folder")
    return value


PlainName = Annotated[str, Field(min_length=1), BeforeValidator(_plain_name)]


class Table(Record):
    """A file of rows: JSON Lines, JSON, CSV, TSV or Parquet, as it is, packed by gzip or zstandard, or in a zip."""

    file: PlainName = Field(description="in the suite's folder")
    member: str | None = Field(default=None, description="of a zip: the file in it; a * stands for the subject of the rows in that file")
    password: str | None = Field(default=None, description="of a zip, as published: it keeps text from crawlers, not from people")
    columns: list[str] | None = Field(default=None, description="names of the columns, where a table has no line of names")


class Shots(Table):
    """Worked examples: the first `count` of the item's own subject, or of all where they have none in common."""

    count: int = Field(ge=1, le=64)


class Published(Record):
    """A benchmark as its authors give it out."""

    items: int
    url: str = Field(description="where the very file is that sha256 names")
    sha256: list[str] = Field(description="of the files that are taken: as published, or repacked by hand and then checked")
    shots: int | None = Field(default=None, description="worked examples that the file must hold")


class Described(Record):
    """What every suite may say."""

    about: str = Field(default="", description="one line for people")
    licence: str = Field(default="", description="of the items")
    published: Published | None = Field(default=None, description="where they are from, and which bytes they must be")
    secret: bool = Field(default=False, description="whether the authors ask that no item's text is shown")
    chat: bool = Field(default=False, description="whether the prompt is a user's turn, in the model's own template")


class Tabled(Described):
    """A suite whose items are rows of a file."""

    items: Annotated[Table, BeforeValidator(_file)] = Field(description="the file, or {file, member, password, columns}")
    fields: dict[str, str | list[str]] = Field(default={}, description="a part of an item: the column, where it has another name")
    shots: Shots | None = None
    template: str | None = Field(default=None, description="the prompt in Jinja, of the item's parts and `shots`; null: the format's own")
    target: float | None = Field(default=None, ge=0, le=1, description="the best mean, where more is not better")

    @property
    def prompt(self) -> str:
        """The prompt's template in Jinja."""
        return self.default_prompt() if self.template is None else self.template

    def default_prompt(self) -> str:
        return CHAT_PROMPT if self.chat else TEXT_PROMPT


class ChoiceSuite(Tabled):
    format: Literal["choice"]
    by: Literal["letter", "continuation"]
    answer: Literal["index", "number", "letter", "text", "first"] = Field(
        default="index", description="how the right choice is told: counted from 0 or from 1, by letter, by its text, or always the first"
    )
    shuffle: str | None = Field(default=None, description="the seed by which each item's choices are put into another order, once for all")
    metric: Literal["accuracy", "accuracy-per-character"] = Field(
        default="accuracy", description="whether the likelihood of a choice counts as it is, or a character"
    )

    def default_prompt(self) -> str:
        return LETTER_PROMPT if self.by == "letter" else super().default_prompt()


class Written(Tabled):
    """A suite whose answers are written."""

    until: list[Annotated[str, Field(min_length=1)]] | None = Field(
        default=None, description="what ends an answer besides the model's own end; null: the format's own"
    )

    @property
    def stops(self) -> list[str]:
        if self.until is not None:
            return self.until
        return [] if self.chat else PLAIN_STOPS


class ExactSuite(Written):
    format: Literal["exact"]
    extract: str | None = Field(
        default=None, description="a regular expression; its first group, or all of it, is the answer: the last match"
    )
    ignore: list[Literal["case", "punctuation", "articles"]] = Field(
        default=["case", "punctuation"], description="what does not count, nor does white space, where two answers are compared"
    )
    metric: Literal["exact-match"] = "exact-match"

    @model_validator(mode="after")
    def _extract_is_an_expression(self) -> "ExactSuite":
        try:
            re.compile(self.extract or "")
        except re.error as error:
            raise ValueError(f"extract is no regular expression: {error}") from None
        return self


class MathSuite(Written):
    format: Literal["math"]
    metric: Literal["accuracy"] = "accuracy"

    def default_prompt(self) -> str:
        return MATH_PROMPT


class CodeSuite(Written):
    format: Literal["code"]
    metric: Literal["pass"] = "pass"

    def default_prompt(self) -> str:
        return "{{ prompt.rstrip() }}"  # the line break before the body is the model's to write: most tokenizers join it to the indent

    @property
    def stops(self) -> list[str]:
        return ([] if self.chat else CODE_STOPS) if self.until is None else self.until


class TextSuite(Tabled):
    format: Literal["text"]
    metric: Literal["bits-per-byte"] = "bits-per-byte"

    def default_prompt(self) -> str:
        return ""


LabelMetric = Literal["accuracy", "macro-f1", "f1", "precision", "recall", "auc"]


def _words(value: Any) -> Any:
    """Labels as they stand in the rows: the words for them. A list says that they are words already."""
    if isinstance(value, list):
        return {str(label): str(label) for label in value} if len({str(label) for label in value}) == len(value) else value
    return {str(label): word for label, word in value.items()} if isinstance(value, dict) else value


class LabelsSuite(Written):
    format: Literal["labels"]
    labels: Annotated[dict[str, Annotated[str, Field(min_length=1)]], BeforeValidator(_words)] = Field(
        min_length=2, description="the labels, each once; or the label in the rows: the word that a model is asked for, {0: bad, 1: good}"
    )
    by: Literal["likelihood", "written"] = "likelihood"
    metric: LabelMetric = "accuracy"
    positive: str | None = Field(default=None, description="the label that f1, precision, recall and auc are of")

    @property
    def words(self) -> list[str]:
        """What a model is asked for, in the order in which a score lists them."""
        return list(self.labels.values())

    def place(self, label: str) -> int:
        """The place of a label as it stands in the rows."""
        return list(self.labels).index(label)

    def default_prompt(self) -> str:
        return LABELS_PROMPT

    @model_validator(mode="after")
    def _positive_is_a_label(self) -> "LabelsSuite":
        if len(set(self.labels.values())) < len(self.labels):
            raise ValueError("labels holds one word twice")
        if self.metric in ("f1", "precision", "recall", "auc") and self.positive is None:
            raise ValueError(f"metric {self.metric} is of one label: name it as `positive`, one of {', '.join(self.labels)}")
        if self.positive is not None and self.positive not in self.labels:
            raise ValueError(f"positive is {self.positive!r}, must be one of {', '.join(self.labels)}")
        if self.metric == "auc" and self.by == "written":
            raise ValueError("metric auc ranks by likelihood: it needs `by: likelihood`")
        return self


class HarnessSuite(Described):
    """A task of lm-eval's, as it is."""

    format: Literal["lm_eval"]
    lm_eval: str = Field(min_length=1, description="a task file in the suite's folder, or the name of a task in the installed package")
    data: dict[str, PlainName] = Field(
        default={}, description="split: file, where the task would fetch its data; else files named as the splits are taken"
    )
    metric: str | None = Field(default=None, description="of the task's metric_list; null: the first of which more is better")
    filter: str | None = Field(default=None, description="of the task's filter_list; null: the first")
    shots: int | None = Field(default=None, ge=0, description="worked examples; null: as many as the task says")
    fields: dict[Literal["id", "subject"], str] = Field(default={}, description="the keys that name an item, and its subject")
    target: float | None = Field(default=None, ge=0, le=1)


TabledSuite = ChoiceSuite | ExactSuite | MathSuite | CodeSuite | TextSuite | LabelsSuite
Suite = TabledSuite | HarnessSuite
FORMATS: Mapping[str, type[Suite]] = {
    "choice": ChoiceSuite,
    "exact": ExactSuite,
    "math": MathSuite,
    "code": CodeSuite,
    "text": TextSuite,
    "labels": LabelsSuite,
    "lm_eval": HarnessSuite,
}
AnySuite: TypeAdapter[Suite] = TypeAdapter(Annotated[Suite, Field(discriminator="format")])
NOT_ASKED = {"about", "licence", "published", "secret"}


def load(folder: Path) -> Suite:
    """What the suite in `folder` says of itself. Raises UserError, a line for each fault."""
    check_name(folder.name)
    path = folder / FILE
    if not path.is_file() and not path.is_symlink():
        raise UserError(f"{path} is missing: it says what the suite is; 'sluice suite new {folder.name} --from FILE' writes one")
    return parse(read_text(path), str(path))


def parse(text: str, where: str) -> Suite:
    """The suite that a text in YAML describes; `where` is what messages call it."""
    try:
        found = YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or error}): mend the line") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: must map names to values, such as 'format: choice'; see data/README.md")
    if "lm_eval" in found:
        found = {"format": "lm_eval", **found}
    if found.get("format") not in FORMATS:
        raise UserError(f"{where}: format is {found.get('format')!r}, must be one of {', '.join(FORMATS)}: see data/README.md")
    try:
        return AnySuite.validate_python(found)
    except ValidationError as error:
        raise UserError("\n".join(_faults(error, where, found["format"]))) from None


def _faults(error: ValidationError, where: str, form: str) -> Iterator[str]:
    known = FORMATS[form].model_fields
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"][1:])
        if fault["type"] == "extra_forbidden":
            yield f"{where}: {key} is not a known key of format {form}; valid ones: {', '.join(sorted(known))}"
        elif fault["type"] == "missing":
            yield f"{where}: {key} is missing: {known[key].description or 'see data/README.md' if key in known else 'see data/README.md'}"
        else:
            said = fault["msg"].removeprefix("Value error, ")
            yield f"{where}: {key + ': ' if key else ''}{said[0].lower()}{said[1:]}"


def asking(suite: Suite) -> dict[str, Any]:
    """All that may move a score, of what a suite says of itself."""
    return suite.model_dump(mode="json", exclude=NOT_ASKED)


def catalogue() -> dict[str, Suite]:
    """The suites that are known by name: published benchmarks, and those of the generated world."""
    return {path.stem: parse(path.read_text(encoding="utf-8"), path.name) for path in sorted(CATALOGUE.glob("*.yaml"))}


def here(root: Path) -> dict[str, Suite | None]:
    """The suites in data/raw/suites of a project, by name; None for one whose file is broken or not here, as before a `dvc pull`."""
    found: dict[str, Suite | None] = {}
    for path in sorted((root / RAW).iterdir()) if (root / RAW).is_dir() else ():
        if path.suffix == ".dvc":
            found.setdefault(path.stem, None)
        elif path.is_dir() and not path.name.startswith("."):
            try:
                found[path.name] = load(path)
            except UserError:
                found[path.name] = None
    return found


def check_name(name: str, what: str = "suite") -> None:
    """Raise UserError for what cannot name a suite, or another folder: a suite's stage and MLflow metric are called so too."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name[:100]!a} names no {what}: must be up to 100 letters, digits, '.', '_', '-', the first no sign")


def folders(parent: Path) -> list[Path]:
    """The folders of all suites that stand side by side, by name."""
    return sorted(path for path in parent.iterdir() if path.is_dir())
