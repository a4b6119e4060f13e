"""Which layout rows have: how each is recognised by its columns, and which kinds of record it can become.

A layout that is recognised by more of the same columns beats one that is recognised by fewer. Where two are left that beat neither each
other nor are beaten, or a layout can become several kinds of which none is the plain one, nothing is guessed: the choices are named.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from models.core.errors import UserError
from models.data import kinds
from models.data.importers import conversations as talk
from models.data.importers import pairs, trees
from models.data.importers.conversations import COMPLETION, PROMPT, Made, Messages, first, is_talk
from models.data.importers.lines import Fault

Row = Mapping[str, Any]
Maker = Callable[[Row, Counter[str]], Iterator[Made]]
TALKS = ("conversations", "conversation")
SAMPLE = 100
"""Rows that are looked at to recognise a layout; it must fit at least half of them."""


@dataclass(frozen=True)
class Layout:
    """A layout: its name, its columns in words, whether a row has it, and what makes records of each kind of it.

    `kind` is what it becomes unless another is asked for: one kind, "all" of them at once, or "" where somebody must say.
    """

    name: str
    columns: str
    fits: Callable[[Row], bool]
    makers: Mapping[str, Any]
    kind: str
    beats: frozenset[str] = field(default=frozenset())


@dataclass(frozen=True)
class Choice:
    """How rows become records: by which layout, of which kinds."""

    layout: Layout
    kinds: tuple[str, ...]
    make: Maker


def _has(*columns: str) -> Callable[[Row], bool]:
    return lambda row: all(row.get(column) is not None for column in columns)


def _is_transcript(row: Row) -> bool:
    sides = (row.get("chosen"), row.get("rejected"))
    return all(isinstance(side, str) and pairs.TURN.match(side) for side in sides)


def _asks(row: Row) -> bool:
    return isinstance(first(row, PROMPT), str | list)


def _completes(row: Row) -> bool:
    return _asks(row) and isinstance(first(row, COMPLETION), str | list)


def _told(conversation: Callable[[Row], Messages]) -> Mapping[str, Maker]:
    """The makers of a layout whose rows are conversations."""
    return {
        "instructions": lambda row, _notes: talk.instruction(conversation(row), talk.tools(row)),
        "prompts": lambda row, _notes: talk.question(conversation(row)),
    }


def _compared(make: Callable[[Row], Iterator[Made]]) -> Mapping[str, Maker]:
    """The makers of a layout whose rows are comparisons: as instructions the chosen answer is what is learned."""

    def chosen(row: Row, _notes: Counter[str]) -> Iterator[Made]:
        for _, suffix, record in make(row):
            yield "instructions", suffix, {"messages": [*record["prompt"], *record["chosen"]]}

    def prompt(row: Row, _notes: Counter[str]) -> Iterator[Made]:
        for _, suffix, record in make(row):
            yield "prompts", suffix, {"prompt": record["prompt"]}

    return {"preferences": lambda row, _notes: make(row), "instructions": chosen, "prompts": prompt}


def _labelled() -> Mapping[str, Any]:
    return {
        "instructions": lambda row, _notes: talk.instruction(pairs.approved(row, talk.completed(row)), {}),
        "preferences": pairs.Matched,
        "prompts": lambda row, _notes: talk.question(talk.completed(row)),
    }


def _document(row: Row, _notes: Counter[str]) -> Iterator[Made]:
    yield "documents", "", {"text": talk.text(row, "text")}


def _record(kind: str, row: Row, _notes: Counter[str]) -> Iterator[Made]:
    """A record in the project's own form: it keeps its source, and its id behind the owner."""
    name = row.get("id")
    if not isinstance(name, str) or not name:
        raise Fault("id is no text")
    yield kind, name, {key: value for key, value in row.items() if key != "id"}


LAYOUTS = (
    Layout(
        "chat",
        "messages",
        lambda row: is_talk(row.get("messages"), "role"),
        _told(lambda row: talk.chat(row, "messages")),
        "instructions",
        frozenset(("prompts",)),
    ),
    Layout(
        "sharegpt",
        "conversations",
        lambda row: is_talk(first(row, TALKS), "from", "role"),
        _told(lambda row: talk.chat(row, *TALKS)),
        "instructions",
    ),
    Layout(
        "alpaca",
        "instruction, input, output",
        lambda row: isinstance(row.get("instruction"), str) and first(row, ("output", "response", "answer")) is not None,
        _told(talk.alpaca),
        "instructions",
        frozenset(("prompt-completion", "prompts", "documents")),
    ),
    Layout("prompt-completion", "prompt, completion", _completes, _told(talk.completed), "instructions", frozenset(("prompts",))),
    Layout(
        "hh",
        "chosen, rejected: transcripts of Human: and Assistant:",
        _is_transcript,
        _compared(pairs.transcripts),
        "preferences",
        frozenset(("pairs", "prompts")),
    ),
    Layout(
        "pairs",
        "prompt, chosen, rejected",
        _has("chosen", "rejected"),
        _compared(pairs.pair),
        "preferences",
        frozenset(("chat", "sharegpt", "prompts")),
    ),
    Layout(
        "openai-pairs",
        "input, preferred_output, non_preferred_output",
        _has("input", "preferred_output", "non_preferred_output"),
        _compared(pairs.openai),
        "preferences",
        frozenset(("prompts",)),
    ),
    Layout(
        "ultrafeedback",
        "instruction, completions with ratings",
        lambda row: _asks(row) and is_talk(row.get("completions"), "response"),
        _compared(pairs.rated),
        "preferences",
        frozenset(("prompts",)),
    ),
    Layout(
        "kto",
        "prompt, completion, label",
        lambda row: _completes(row) and row.get("label") is not None,
        _labelled(),
        "",
        frozenset(("prompt-completion", "alpaca", "prompts")),
    ),
    Layout("prompts", "prompt", _asks, {"prompts": lambda row, _notes: talk.question(talk.asked(row))}, "prompts"),
    Layout("documents", "text", lambda row: isinstance(row.get("text"), str), {"documents": _document}, "documents"),
    Layout(
        "oasst",
        "message_tree_id, prompt: a tree of messages",
        lambda row: "message_tree_id" in row and isinstance(row.get("prompt"), dict),
        dict.fromkeys(("instructions", "preferences", "prompts"), trees.tree),
        "all",
    ),
    Layout(
        "llmbar",
        "input, output_1, output_2, label",
        _has("input", "output_1", "output_2", "label"),
        _compared(pairs.labelled_outputs),
        "preferences",
        frozenset(("prompts", "kto")),
    ),
    Layout(
        "seed-tasks",
        "id, instruction, instances",
        _has("instruction", "instances"),
        {"instructions": lambda row, _notes: talk.tasks(row)},
        "instructions",
        frozenset(("prompts",)),
    ),
    Layout("text", "a text", lambda _row: False, {"documents": _document}, "documents"),
    Layout("records", "as in data/raw", lambda _row: False, {kind: partial(_record, kind) for kind in kinds.FIELDS}, ""),
)
NAMES = tuple(layout.name for layout in LAYOUTS)


def named(name: str, kind: str) -> Choice:
    """The layout that somebody named, and the kind, where that was said too. `records:KIND` is a file named as the kind."""
    name, _, of_file = name.partition(":")
    found = next((layout for layout in LAYOUTS if layout.name == name), None)
    if found is None:
        raise UserError(f"no layout is named {name!r}; must be one of {', '.join(NAMES)}")
    return _chosen(found, of_file or kind, f"layout {name}")


def recognise(rows: Sequence[Row], kind: str, where: str) -> Choice:
    """The one layout that fits at least half of these rows and can become the kind, if one is asked for.

    Raises UserError, with what could be meant, where there is none or several.
    """
    able = [layout for layout in LAYOUTS if not kind or kind in layout.makers]
    fits = [layout for layout in able if 2 * sum(map(layout.fits, rows)) >= len(rows)]
    beaten = frozenset[str]().union(*(layout.beats for layout in fits))
    left = [layout for layout in fits if layout.name not in beaten]
    if len(left) == 1:
        return _chosen(left[0], kind, where)
    columns = ", ".join(list(dict.fromkeys(str(column)[:30] for row in rows for column in row))[:12]) or "none"
    if left:
        told = " or ".join(f"--layout {layout.name} ({layout.columns})" for layout in left)
        raise UserError(f"{where}: the columns {columns} fit several layouts: add {told}, or --as KIND where that tells them apart")
    known = "; ".join(f"{layout.name} ({layout.columns})" for layout in able if layout.name not in ("text", "records"))
    raise UserError(
        f"{where}: no layout{f' that becomes {kind}' if kind else ''} has the columns {columns}; must be one of {known}: "
        "--map NAME=COLUMN says which column is meant, see data/README.md"
    )


def _chosen(layout: Layout, kind: str, where: str) -> Choice:
    if kind and kind not in layout.makers:
        raise UserError(f"{where}: {layout.name} ({layout.columns}) does not become {kind}; --as must be one of {', '.join(layout.makers)}")
    if not kind and not layout.kind:
        raise UserError(
            f"{where}: {layout.name} ({layout.columns}) can become several kinds: add --as {' or --as '.join(layout.makers)}; "
            "data/README.md says what each takes"
        )
    wanted = tuple(layout.makers) if not kind and layout.kind == "all" else (kind or layout.kind,)
    maker = layout.makers[wanted[0]]
    return Choice(layout, wanted, maker() if isinstance(maker, type) else maker)
