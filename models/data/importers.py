"""Published data brought into data/raw, in the form that the stage sources reads.

name         what it takes                                            what it gives
oasst        OpenAssistant message trees, JSON Lines (Apache-2.0)     instructions, preferences, prompts
llmbar       LLMBar pairs, JSON (MIT)                                 preferences
seed-tasks   self-instruct seed tasks, JSON Lines (Apache-2.0)        instructions
text         one plain text file; Project Gutenberg's frame goes      documents
folder       a folder with files named as in data/raw                 the kinds that it holds

Benchmarks come in by models/score/benchmarks.py.

Every record's id begins with its owner: the importer's name, with the file's or folder's where there may be several, and the name of
the folder that it is in. To import again replaces the owner's records and no others, and says how many; the order of imports changes
nothing.
"""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.core.errors import UserError
from models.core.given import DECODER, checked, parse_text, read_lines, read_text, require_file, whole
from models.core.importing import replace_together
from models.data import gutenberg, kinds

Rows = list[dict[str, Any]]
ByKind = dict[str, Rows]
Tell = Callable[[str], None]

CHUNK_CHARACTERS = 1500
"""Paragraphs are gathered into documents of about this size: some 350 tokens, what a small model reads at once."""
NAMED = ("text", "folder")
"""The importers whose ids say as well which file or folder a record is from, and which folder that is in."""


def bring(name: str, source: Path, raw: Path, tell: Tell = lambda _line: None) -> dict[str, int]:
    """Bring `source` into the folder `raw` and return how many records of each kind came.

    `tell` hears of records that will be replaced and of what is left out, a line each. Raises UserError where there is no such importer,
    or the source is missing, cut short or of another format; nothing has changed then.
    """
    if name not in IMPORTERS:
        raise UserError(f"no importer is named {name!r}; must be one of {', '.join(IMPORTERS)}")
    if not os.path.isdir(source):
        require_file(source, f"importer {name} reads it; name an existing path")
    owner, brought = IMPORTERS[name](source, tell)
    if not any(brought.values()):
        raise UserError(f"{source}: the source holds no record that can be used; nothing was changed")
    for kind, found in brought.items():
        for record in found:
            if kinds.is_broken(kind, record):
                raise UserError(f"{source}: {record['id']} does not make a record of {kind}: a text or a role is missing; mend the source")
    _replace_records(owner, brought, raw, lambda line: tell(f"{source}: {line}"))
    return {kind: len(rows) for kind, rows in brought.items() if rows}


def owner_of(record: Mapping[str, Any]) -> str:
    """Return the part of the id that says who brought the record; "" for a record that no importer brought."""
    parts = str(record.get("id", "")).split("/")
    depth = 3 if parts[0] in NAMED else 1
    return "/".join(parts[:depth]) if parts[0] in IMPORTERS and len(parts) > depth else ""


def _owner(importer: str, source: Path) -> str:
    """IMPORTER/FOLDER/NAME: the same on every machine where the path ends alike, in whichever Unicode form the file system keeps it."""
    place = Path(os.path.abspath(source))
    return whole(unicodedata.normalize("NFC", f"{importer}/{place.parent.name or '-'}/{place.name or '-'}"))


def _replace_records(owner: str, brought: ByKind, raw: Path, tell: Tell) -> None:
    """Put the records of `owner` in the place of those it had. Records of no owner come first, then owners by name."""
    changed: ByKind = {}
    gone, namesakes = Rows(), Counter[str]()
    for kind in kinds.FIELDS:
        path, new = raw / f"{kind}.jsonl", brought.get(kind, [])
        rows = list(read_lines(path)) if os.path.lexists(path) else []
        own, others = ([row for row in rows if (owner_of(row) == owner) is mine] for mine in (True, False))
        if own != new:
            changed[path.name] = sorted([*others, *new], key=owner_of)
            gone += _missing(own, new)
        namesakes.update(other for other in map(owner_of, others) if _is_namesake(other, owner))
    if gone:
        both = "rename one to have both" if owner.partition("/")[0] in NAMED else "put both into one file to have both"
        tell(f"replacing {_records(len(gone))} of an earlier import of {owner}, not in this one; if that was another source, {both}")
    if namesakes:
        tell(f"{_records(namesakes.total())} of another {owner.rsplit('/', 1)[-1]} stay: {', '.join(sorted(namesakes)[:3])}")
    replace_together(raw, changed)


def _records(count: int) -> str:
    return f"{count:,} record{'s' * (count != 1)}"


def _missing(own: Rows, new: Rows) -> Rows:
    """The records that are not among the new ones as they are."""
    stays = {json.dumps(row, sort_keys=True) for row in new}
    return [row for row in own if json.dumps(row, sort_keys=True) not in stays]


def _is_namesake(other: str, owner: str) -> bool:
    """Whether two owners are a file or folder of one name in different folders."""
    one, two = other.split("/"), owner.split("/")
    return one != two and (one[0], one[-1]) == (two[0], two[-1])


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


class Source(BaseModel):
    """A published record: the keys that are read; others may be there."""

    model_config = ConfigDict(frozen=True)


Name = Annotated[str, Field(min_length=1)]


class Message(Source):
    """One message of a tree. A null text is that of a message which was taken back: it goes, with what follows it."""

    message_id: Name
    role: Literal["prompter", "assistant"]
    text: str | None
    deleted: bool | None = False
    rank: int | None = None
    replies: list["Message"] | None = None

    @property
    def lost(self) -> bool:
        """Whether there is no text to be learned from."""
        return not (self.text and self.text.strip())

    @property
    def said(self) -> dict[str, str]:
        return _said("user" if self.role == "prompter" else "assistant", self.text or "")


class Tree(Source):
    message_tree_id: Name
    prompt: Message


def oasst(source: Path, tell: Tell) -> tuple[str, ByKind]:
    """Message trees: the best-ranked path of each as a conversation, sibling answers of different rank as pairs, the root as a prompt.

    The same questions are in all three kinds; prepare holds the same ones out of each, so that what is held out of one
    was not trained on through another.
    """
    brought: ByKind = {"instructions": [], "preferences": [], "prompts": []}
    lost = 0
    for number, value in enumerate(read_lines(source), 1):
        tree = checked(Tree, value, f"{source}, tree {number}")
        lost += _lost(tree.prompt)
        if tree.prompt.lost:
            continue
        name, path = f"oasst/{tree.message_tree_id}", _best_path(tree.prompt)
        if path:
            brought["instructions"].append({"id": name, "messages": path, "source": "oasst"})
        brought["preferences"] += _sibling_pairs(tree.prompt, [])
        brought["prompts"].append({"id": name, "prompt": [tree.prompt.said]})
    if lost:
        tell(f"{source}: {lost:,} messages without a text were left out, with what follows them")
    return "oasst", brought


def _lost(message: Message) -> int:
    """How many messages without a text there are, not counting below one."""
    return 1 if message.lost else sum(map(_lost, (reply for reply in message.replies or () if not reply.deleted)))


def _replies(message: Message) -> list[Message]:
    """The replies that have a text and were not deleted, best rank (0) first; those without a rank last, in their order."""
    found = [reply for reply in message.replies or () if not (reply.deleted or reply.lost)]
    return sorted(found, key=lambda reply: (reply.rank is None, reply.rank or 0))


def _best_path(root: Message) -> list[dict[str, str]]:
    """The conversation along the first reply of each message, up to the last answer; empty where there is none."""
    path, message = [root.said], root
    while replies := _replies(message):
        message = replies[0]
        path.append(message.said)
    return path if path[-1]["role"] == "assistant" else path[:-1]


def _sibling_pairs(message: Message, before: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield a pair for every two answers to one message whose ranks differ, and so on down the tree."""
    said, replies = [*before, message.said], _replies(message)
    if message.role == "prompter":
        for (better, chosen), (worse, rejected) in combinations(enumerate(replies), 2):
            if chosen.rank is not None and rejected.rank is not None and chosen.rank < rejected.rank:
                answers = {"chosen": [chosen.said], "rejected": [rejected.said]}
                yield {"id": f"oasst/{message.message_id}/{better}-{worse}", "prompt": said, **answers, "source": "oasst"}
    for reply in replies:
        yield from _sibling_pairs(reply, said)


class Pair(Source):
    input: str
    output_1: str
    output_2: str
    label: Any


def llmbar(source: Path, _tell: Tell) -> tuple[str, ByKind]:
    """Pairs of answers, of which people say which one follows the instruction."""
    rows: Rows = []
    for number, value in enumerate(_json_list(source)):
        where = f"{source}, pair {number + 1}"
        pair = checked(Pair, value, where)
        if isinstance(pair.label, bool) or pair.label not in (1, 2):  # 1.0, which a table with gaps makes of 1, is among them
            raise UserError(f"{where}: the label is {repr(pair.label)[:40]}, must be 1 or 2: bring the file in again")
        answers = [pair.output_1, pair.output_2][:: 1 if pair.label == 1 else -1]
        chosen, rejected = ([_said("assistant", answer)] for answer in answers)
        prompt = [_said("user", pair.input)]
        rows.append({"id": f"llmbar/{number}", "prompt": prompt, "chosen": chosen, "rejected": rejected, "source": "llmbar"})
    return "llmbar", {"preferences": rows}


def _json_list(source: Path) -> Sequence[Any]:
    """The objects of a JSON array."""
    text = read_text(source)
    try:
        values = parse_text(text)
    except ValueError as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else _line_of_fault(text)
        fault = error.msg if isinstance(error, json.JSONDecodeError) else str(error).partition("; use sys")[0]
        raise UserError(f"{source}, line {line}: not valid JSON ({fault}); must be one array of objects: bring the file in again") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UserError(f"{source}: must be one JSON array of objects: bring the file in again")
    return values


def _line_of_fault(text: str) -> int:
    """The line on which the element of an array begins that the decoder gives up on; all before it is well-formed."""
    between = re.compile(r"[\s,]*")
    place = text.find("[") + 1
    while True:
        found = between.match(text, place)
        place = found.end() if found else place
        try:
            _, place = DECODER.raw_decode(text, place)
        except ValueError:
            return text.count("\n", 0, place) + 1


class Instance(Source):
    input: str | None = None
    output: str


class Task(Source):
    id: Name | int
    instruction: str
    instances: list[Instance]


def seed_tasks(source: Path, _tell: Tell) -> tuple[str, ByKind]:
    """Tasks written by people: the instruction, with its input where there is one, and the output."""
    rows: Rows = []
    for number, value in enumerate(read_lines(source), 1):
        task = checked(Task, value, f"{source}, task {number}")
        for place, instance in enumerate(task.instances):
            asked = "\n\n".join(part for part in (task.instruction, instance.input or "") if part.strip())
            messages = [_said("user", asked), _said("assistant", instance.output)]
            rows.append({"id": f"seed-tasks/{task.id}/{place}", "messages": messages, "source": "seed-tasks"})
    return "seed-tasks", {"instructions": rows}


def text(source: Path, tell: Tell) -> tuple[str, ByKind]:
    """One text file as documents of whole paragraphs, about CHUNK_CHARACTERS long."""
    owner, content = _owner("text", source), read_text(source)
    kept = gutenberg.books(content)
    if len(kept) < len(content):
        tell(f"{source}: {len(content) - len(kept):,} of {len(content):,} characters, outside Project Gutenberg's markers, were left out")
    rows = [{"id": f"{owner}/{number:05d}", "text": chunk, "source": owner} for number, chunk in enumerate(_chunks(kept))]
    return owner, {"documents": rows}


def _chunks(content: str) -> Iterator[str]:
    """Yield runs of paragraphs of up to CHUNK_CHARACTERS; a longer paragraph is one by itself, never cut."""
    gathered: list[str] = []
    for paragraph in re.split(r"\n[ \t]*\n", content):
        stripped = paragraph.strip("\n")
        if not stripped.strip():
            continue
        if gathered and sum(map(len, gathered)) + len(stripped) > CHUNK_CHARACTERS:
            yield "\n\n".join(gathered)
            gathered = []
        gathered.append(stripped)
    if gathered:
        yield "\n\n".join(gathered)


def folder(source: Path, _tell: Tell) -> tuple[str, ByKind]:
    """Files of records in the project's own form; ids gain the names of the folder and of the one that it is in."""
    wanted = [f"{kind}.jsonl" for kind in kinds.FIELDS]
    if not os.path.isdir(source):
        raise UserError(f"{source}: must be a folder with {', '.join(wanted)}, or some of them")
    owner = _owner("folder", source)
    brought: ByKind = {}
    for kind in kinds.FIELDS:
        path = source / f"{kind}.jsonl"
        brought[kind] = []
        for number, record in enumerate(read_lines(path) if _is_there(path) else (), 1):
            if kinds.is_broken(kind, record):
                raise UserError(f"{path}, record {number}: must be {{{', '.join(kinds.FIELDS[kind])}}} as data/README.md says: mend it")
            brought[kind].append({**record, "id": f"{owner}/{record['id']}"})
    return owner, brought


def _is_there(path: Path) -> bool:
    """Whether a file of that name is there in any state. Raises UserError where it is only there packed, or as DVC's pointer to it."""
    if os.path.lexists(path):
        return True
    for other in sorted(path.parent.glob(f"{path.name}.*")):
        if other.suffix == ".dvc":
            raise UserError(f"{other} is here and {path.name} is not: it must be here to be imported; 'dvc pull' it first")
        raise UserError(f"{other} is here and {path.name} is not: packed files are not read; unpack it, or move it elsewhere")
    return False


IMPORTERS: Mapping[str, Callable[[Path, Tell], tuple[str, ByKind]]] = {
    "oasst": oasst,
    "llmbar": llmbar,
    "seed-tasks": seed_tasks,
    "text": text,
    "folder": folder,
}
