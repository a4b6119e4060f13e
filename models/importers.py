"""Published data brought into data/raw, in the form that the stage sources reads.

name         what it takes                                            what it gives
oasst        OpenAssistant message trees, JSON Lines (Apache-2.0)     instructions, preferences, prompts
llmbar       LLMBar pairs, JSON (MIT)                                 preferences
seed-tasks   self-instruct seed tasks, JSON Lines (Apache-2.0)        instructions
text         one plain text file; Project Gutenberg's frame goes      documents
folder       a folder with files named as in data/raw                 the kinds that it holds

Benchmarks come in by models/published.py.

Every record's id begins with its owner: the importer's name, with the file's or folder's where there may be several. To import
again replaces the owner's records and no others, and the order of imports changes nothing.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from models import kinds
from models.errors import UserError
from models.records import read_lines, write_lines

Rows = list[dict[str, Any]]
ByKind = dict[str, Rows]

CHUNK_CHARACTERS = 1500
"""Paragraphs are gathered into documents of about this size: some 350 tokens, what a small model reads at once."""


def bring(name: str, source: Path, raw: Path) -> dict[str, int]:
    """Bring `source` into the folder `raw` and return how many records of each kind came.

    Raises UserError where there is no such importer, or the source is missing, cut short or of another format; nothing has
    changed then.
    """
    if name not in IMPORTERS:
        raise UserError(f"no importer is named {name!r}; must be one of {', '.join(IMPORTERS)}")
    if not source.exists():
        raise UserError(f"{source} is missing: importer {name} reads it; name an existing path")
    return IMPORTERS[name](source, raw)


def owner_of(record: Mapping[str, Any]) -> str:
    """Return the part of the id that says who brought the record; "" for a record that no importer brought."""
    identity = str(record.get("id", ""))
    parts = identity.split("/")
    depth = 2 if parts[0] in ("text", "folder") else 1
    return "/".join(parts[:depth]) if parts[0] in IMPORTERS and len(parts) > depth else ""


def _replace_records(owner: str, brought: ByKind, raw: Path) -> dict[str, int]:
    """Put the records of `owner` in the place of those it had. Records of no owner come first, then owners by name."""
    if not any(brought.values()):
        raise UserError(f"{owner}: the source holds no record that can be used; nothing was changed")
    for kind, found in brought.items():
        for record in found:
            if kinds.is_broken(kind, record):
                raise UserError(f"{record['id']}: does not make a record of {kind}: a text or a role is missing; mend the source")
    for kind in kinds.FIELDS:
        path = raw / f"{kind}.jsonl"
        others = [record for record in read_lines(path) if owner_of(record) != owner] if path.exists() else []
        rows = sorted([*others, *brought.get(kind, [])], key=owner_of)
        if rows:
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            try:
                write_lines(temporary, rows)
                temporary.replace(path)  # never through the path: DVC may have linked it to its cache
            finally:
                temporary.unlink(missing_ok=True)
        else:
            path.unlink(missing_ok=True)
    return {kind: len(rows) for kind, rows in brought.items() if rows}


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _field(record: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in record:
        raise UserError(f"{where}: the key {key!r} is missing; must be the published format: bring the file in again")
    return record[key]


def oasst(source: Path, raw: Path) -> dict[str, int]:
    """Message trees: the best-ranked path of each as a conversation, sibling answers of different rank as pairs, the root as a prompt.

    The same questions are in all three kinds; prepare holds the same ones out of each, so that what is held out of one
    was not trained on through another.
    """
    brought: ByKind = {"instructions": [], "preferences": [], "prompts": []}
    for number, tree in enumerate(read_lines(source), 1):
        where = f"{source}, tree {number}"
        name, root = f"oasst/{_field(tree, 'message_tree_id', where)}", _field(tree, "prompt", where)
        path = _best_path(root, where)
        if path:
            brought["instructions"].append({"id": name, "messages": path, "source": "oasst"})
        brought["preferences"] += _sibling_pairs(root, [], where)
        brought["prompts"].append({"id": name, "prompt": [_message(root, where)]})
    return _replace_records("oasst", brought, raw)


def _message(node: Mapping[str, Any], where: str) -> dict[str, str]:
    names = {"prompter": "user", "assistant": "assistant"}
    role = _field(node, "role", where)
    if role not in names:
        raise UserError(f"{where}: the role is {role!r}, must be prompter or assistant: bring the file in again")
    return _said(names[role], str(_field(node, "text", where)))


def _replies(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The replies that were not deleted, best rank (0) first; those without a rank last, in their order."""
    found = [reply for reply in node.get("replies") or () if not reply.get("deleted")]
    return sorted(found, key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0))


def _best_path(root: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """The conversation along the first reply of each message, up to the last answer; empty where there is none."""
    path, node = [_message(root, where)], root
    while replies := _replies(node):
        node = replies[0]
        path.append(_message(node, where))
    return path if path[-1]["role"] == "assistant" else path[:-1]


def _sibling_pairs(node: Mapping[str, Any], before: list[dict[str, str]], where: str) -> Iterator[dict[str, Any]]:
    """Yield a pair for every two answers to one message whose ranks differ, and so on down the tree."""
    said, replies = [*before, _message(node, where)], _replies(node)
    if said[-1]["role"] == "user":
        ranked = [(place, reply) for place, reply in enumerate(replies) if reply.get("rank") is not None]
        for (better, chosen), (worse, rejected) in combinations(ranked, 2):
            if chosen["rank"] < rejected["rank"]:
                answers = {"chosen": [_message(chosen, where)], "rejected": [_message(rejected, where)]}
                name = f"oasst/{_field(node, 'message_id', where)}/{better}-{worse}"
                yield {"id": name, "prompt": said, **answers, "source": "oasst"}
    for reply in replies:
        yield from _sibling_pairs(reply, said, where)


def llmbar(source: Path, raw: Path) -> dict[str, int]:
    """Pairs of answers, of which people say which one follows the instruction."""
    rows: Rows = []
    for number, pair in enumerate(_json_list(source)):
        where = f"{source}, pair {number + 1}"
        answers, label = [_field(pair, key, where) for key in ("output_1", "output_2")], _field(pair, "label", where)
        if label not in (1, 2):
            raise UserError(f"{where}: the label is {label!r}, must be 1 or 2: bring the file in again")
        chosen, rejected = ([_said("assistant", answers[place])] for place in (label - 1, 2 - label))
        prompt = [_said("user", _field(pair, "input", where))]
        rows.append({"id": f"llmbar/{number}", "prompt": prompt, "chosen": chosen, "rejected": rejected, "source": "llmbar"})
    return _replace_records("llmbar", {"preferences": rows}, raw)


def _json_list(source: Path) -> Rows:
    """The objects of a JSON array."""
    try:
        values = json.loads(source.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{source}: not valid JSON ({error}); must be one array of objects: bring the file in again") from None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise UserError(f"{source}: must be one JSON array of objects: bring the file in again")
    return values


def seed_tasks(source: Path, raw: Path) -> dict[str, int]:
    """Tasks written by people: the instruction, with its input where there is one, and the output."""
    rows: Rows = []
    for number, task in enumerate(read_lines(source), 1):
        where = f"{source}, task {number}"
        for place, instance in enumerate(_field(task, "instances", where)):
            asked = "\n\n".join(part for part in (_field(task, "instruction", where), _field(instance, "input", where)) if part.strip())
            messages = [_said("user", asked), _said("assistant", _field(instance, "output", where))]
            rows.append({"id": f"seed-tasks/{_field(task, 'id', where)}/{place}", "messages": messages, "source": "seed-tasks"})
    return _replace_records("seed-tasks", {"instructions": rows}, raw)


def text(source: Path, raw: Path) -> dict[str, int]:
    """One text file as documents of whole paragraphs, about CHUNK_CHARACTERS long."""
    try:
        content = source.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{source}: cannot be read as a text file ({error}); must be one file in UTF-8: convert it") from None
    owner = f"text/{source.stem.replace('/', '-')}"
    chunks = _chunks(_without_frame(content))
    rows = [{"id": f"{owner}/{number:05d}", "text": chunk, "source": owner} for number, chunk in enumerate(chunks)]
    return _replace_records(owner, {"documents": rows}, raw)


def _without_frame(content: str) -> str:
    """The text without Project Gutenberg's header and footer, which would be learned by heart."""
    framed = re.search(r"^\*\*\* ?START OF.*?\*\*\*$\n(.*?)^\*\*\* ?END OF", content, re.DOTALL | re.MULTILINE)
    return framed[1] if framed else content


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


def folder(source: Path, raw: Path) -> dict[str, int]:
    """Files of records in the project's own form; ids gain the folder's name in front."""
    if not source.is_dir():
        raise UserError(f"{source}: must be a folder with {', '.join(f'{kind}.jsonl' for kind in kinds.FIELDS)}, or some of them")
    owner = f"folder/{source.resolve().name}"
    brought: ByKind = {}
    for kind in kinds.FIELDS:
        path = source / f"{kind}.jsonl"
        brought[kind] = []
        for number, record in enumerate(read_lines(path) if path.exists() else (), 1):
            if kinds.is_broken(kind, record):
                raise UserError(f"{path}, record {number}: must be {{{', '.join(kinds.FIELDS[kind])}}} as data/raw/README.md says: mend it")
            brought[kind].append({**record, "id": f"{owner}/{record['id']}"})
    return _replace_records(owner, brought, raw)


IMPORTERS: Mapping[str, Callable[[Path, Path], dict[str, int]]] = {
    "oasst": oasst,
    "llmbar": llmbar,
    "seed-tasks": seed_tasks,
    "text": text,
    "folder": folder,
}
