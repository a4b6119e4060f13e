"""The four record kinds: which fields they have, how their conversations are shaped, and where their text stands.

documents      {id, text, source}
instructions   {id, messages, source} and, where the assistant may call functions, `tools`
preferences    {id, prompt, chosen, rejected, source}
prompts        {id, prompt} and, where an answer can be checked, `answer`, or `entry_point` and `test` (and `preamble`) of a program

All but `id`, `text`, `source` and `tools` are lists of messages {role, content}. In instructions an assistant's message may have
`tool_calls` [{type: function, function: {name, arguments}}], arguments as an object, and a message of the role `tool` with each call's
result follows; `tools` lists the functions that were on offer. A message with calls and no text has the content "".
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

FIELDS: Mapping[str, tuple[str, ...]] = {
    "documents": ("id", "text", "source"),
    "instructions": ("id", "messages", "source"),
    "preferences": ("id", "prompt", "chosen", "rejected", "source"),
    "prompts": ("id", "prompt"),
}
CHECKS = ("answer", "entry_point", "test", "preamble")
"""Of prompts, texts: what is to be right, or what a program must pass, as models.score.rewards has it. No model ever reads them."""
WORK = r"user(?: calls(?: tool)+)*"  # what the assistant looks up or does before it answers
CONVERSATIONS: Mapping[str, str] = {
    "messages": rf"(?:system )?(?:{WORK} assistant )*{WORK} (?:assistant|calls)",
    "prompt": r"(?:system )?user(?: assistant user)*",
    "chosen": r"assistant",
    "rejected": r"assistant",
}
"""A field's roles in their order, joined by blanks, as a pattern of the whole; `calls` is an assistant's message with tool calls."""
TEXT_FIELDS: Mapping[str, tuple[str, ...]] = {
    kind: tuple(field for field in fields if field not in ("id", "source")) for kind, fields in FIELDS.items()
}


def texts(kind: str, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (field, text) for every text of a well-formed record: one a document, one a message and one, as JSON, a call in it."""
    for field in TEXT_FIELDS[kind]:
        value = record[field]
        if isinstance(value, str):
            yield field, value
            continue
        for message in value:
            calls = message.get("tool_calls") or ()
            if message["content"] or not calls:
                yield field, message["content"]
            for call in calls:
                yield field, json.dumps(call["function"], ensure_ascii=False)


def rewritten(kind: str, record: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return a well-formed record with each of its texts replaced by `change(text)`, of calls those among the arguments; all else stays."""
    new = dict(record)
    for field in TEXT_FIELDS[kind]:
        value = record[field]
        new[field] = change(value) if isinstance(value, str) else [_rewritten(message, change) for message in value]
    return new


def _rewritten(message: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    new = {**message, "content": change(message["content"])}
    if calls := message.get("tool_calls"):
        new["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _inside(call["function"]["arguments"], change)}} for call in calls
        ]
    return new


def _inside(value: Any, change: Callable[[str], str]) -> Any:
    """A value of JSON with every text in it changed, keys left."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _inside(inner, change) for key, inner in value.items()}
    return [_inside(inner, change) for inner in value] if isinstance(value, list) else value


def without_empty_system(kind: str, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record without its system messages that say nothing: null, blank, or of unseen characters. The rest may be broken."""
    empty = {
        field: [message for message in record[field] if not _is_empty_system(message)]
        for field in TEXT_FIELDS[kind]
        if isinstance(record.get(field), list) and any(map(_is_empty_system, record[field]))
    }
    return {**record, **empty} if empty else record


def _is_empty_system(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") != "system":
        return False
    content = message.get("content")
    return content is None or (isinstance(content, str) and not any(letter.isprintable() and not letter.isspace() for letter in content))


def roles(messages: Any) -> str:
    """Return a conversation's roles joined by blanks (one that holds blanks is no role), or what it is instead of a list of messages.

    An assistant's message with tool calls is `calls`, one with calls of another shape is none.
    """
    if not isinstance(messages, list):
        return f"not a list but {type(messages).__name__}"
    found = []
    for message in messages:
        if not (isinstance(message, dict) and isinstance(role := message.get("role"), str) and isinstance(message.get("content"), str)):
            return "not a list of {role, content}"
        if message.get("tool_calls") is not None:
            role = "calls" if role == "assistant" and _are_calls(message["tool_calls"]) else f"{role}_with_broken_calls"
        found.append(role.replace(" ", "_"))
    return " ".join(found)


def _are_calls(calls: Any) -> bool:
    if not isinstance(calls, list) or not calls or not all(isinstance(call, dict) for call in calls):
        return False
    functions = [call.get("function") for call in calls]
    return all(isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("arguments"), dict) for one in functions)


def is_broken(kind: str, record: Mapping[str, Any]) -> bool:
    """Whether `fault` finds anything."""
    return bool(fault(kind, record))


def fault(kind: str, record: Mapping[str, Any]) -> str:
    """What is wrong with a record: a field is missing or of another type, or roles come in another order than the field allows; else "".

    System messages that say nothing count as none.
    """
    return _fault(kind, record) and _fault(kind, without_empty_system(kind, record))


def _fault(kind: str, record: Mapping[str, Any]) -> str:
    if not (isinstance(record.get("id"), str) and record["id"]) or not isinstance(record.get("source", ""), str):
        return "id or source is no text"
    for field in FIELDS[kind]:
        if field not in record:
            return f"{field} is missing"
    for field in TEXT_FIELDS[kind]:
        value = record[field]
        if field not in CONVERSATIONS:
            if not isinstance(value, str):
                return f"{field} is no text"
        elif not _may_come(field, found := roles(value)):
            return f"{field} is {found[:60]}" if found.startswith("not a") else f"{field} has the roles {found[:60] or 'of nobody'}"
    if kind == "prompts" and (odd := [key for key in CHECKS if not isinstance(record.get(key, ""), str)]):
        return f"{odd[0]} is no text"
    return "" if isinstance(record.get("tools", []), list) else "tools is no list"


@lru_cache(maxsize=1024)
def _may_come(field: str, found: str) -> bool:
    """Whether a field's roles may come in this order."""
    return re.fullmatch(CONVERSATIONS[field], found) is not None


def name_of(record: Mapping[str, Any], number: int) -> str:
    """Return what messages call a record: its id, or where it has none its 1-based number in the file."""
    name = record.get("id")
    return name if isinstance(name, str) and name else f"record {number}"
