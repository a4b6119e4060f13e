"""The four record kinds: which fields they have, how their conversations are shaped, and where their text stands.

documents      {id, text, source}
instructions   {id, messages, source}
preferences    {id, prompt, chosen, rejected, source}
prompts        {id, prompt}

All but `id`, `text` and `source` are lists of messages {role, content}.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

FIELDS: Mapping[str, tuple[str, ...]] = {
    "documents": ("id", "text", "source"),
    "instructions": ("id", "messages", "source"),
    "preferences": ("id", "prompt", "chosen", "rejected", "source"),
    "prompts": ("id", "prompt"),
}
CONVERSATIONS: Mapping[str, str] = {
    "messages": r"(?:system )?user assistant(?: user assistant)*",
    "prompt": r"(?:system )?user(?: assistant user)*",
    "chosen": r"assistant",
    "rejected": r"assistant",
}
"""A field's roles in their order, joined by blanks, as a pattern of the whole."""
TEXT_FIELDS: Mapping[str, tuple[str, ...]] = {
    kind: tuple(field for field in fields if field not in ("id", "source")) for kind, fields in FIELDS.items()
}


def texts(kind: str, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (field, text) for every text of a well-formed record: one a document, one a message."""
    for field in TEXT_FIELDS[kind]:
        value = record[field]
        if isinstance(value, str):
            yield field, value
        else:
            for message in value:
                yield field, message["content"]


def rewritten(kind: str, record: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return a well-formed record with each of its texts replaced by `change(text)`; all else stays."""
    new = dict(record)
    for field in TEXT_FIELDS[kind]:
        value = record[field]
        if isinstance(value, str):
            new[field] = change(value)
        else:
            new[field] = [{**message, "content": change(message["content"])} for message in value]
    return new


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
    """Return a conversation's roles joined by blanks (one that holds blanks is no role), or what it is instead of a list of messages."""
    if not isinstance(messages, list):
        return f"not a list but {type(messages).__name__}"
    found = []
    for message in messages:
        if not (isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)):
            return "not a list of {role, content}"
        found.append("_".join(message["role"].split(" ")))
    return " ".join(found)


def is_broken(kind: str, record: Mapping[str, Any]) -> bool:
    """Whether a field is missing or of another type, or a conversation's roles come in another order than its field allows.

    System messages that say nothing count as none.
    """
    record = without_empty_system(kind, record)
    if not (isinstance(record.get("id"), str) and record["id"]) or not isinstance(record.get("source", ""), str):
        return True
    if any(field not in record for field in FIELDS[kind]):
        return True
    for field in TEXT_FIELDS[kind]:
        pattern = CONVERSATIONS.get(field)
        if not isinstance(record[field], str) if pattern is None else not re.fullmatch(pattern, roles(record[field])):
            return True
    return False


def name_of(record: Mapping[str, Any], number: int) -> str:
    """Return what messages call a record: its id, or where it has none its 1-based number in the file."""
    name = record.get("id")
    return name if isinstance(name, str) and name else f"record {number}"
