"""Conversations with tool calls, as the model's own template renders them; one that it cannot show is refused, never flattened."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from models.core.errors import StageError
from models.train.chat import Messages, Tools, ending, rendered, spanned


def has_tools(record: Mapping[str, Any]) -> bool:
    """Whether a conversation offers functions, calls them, or holds a result of one."""
    return bool(record.get("tools")) or any(said["role"] == "tool" or said.get("tool_calls") for said in record["messages"])


def coded(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Tools | None) -> tuple[list[int], list[int]]:
    """Token ids, and a 1 for each that the assistant says, of a conversation with tools: all that the template writes between what asks for
    a turn of the assistant's and what ends it, calls included.

    Raises StageError where the template refuses the conversation, does not show a call, a result or a function on offer, or writes an
    earlier turn otherwise once a later one follows.
    """
    text, (end, _), spans = rendered(tokenizer, messages, tools=tools), ending(tokenizer), list[tuple[int, int]]()
    if missing := next((what for what, forms in _tool_texts(messages, tools) if not any(form in text for form in forms)), ""):
        raise StageError(f"the chat template does not show {missing}")
    for place, said in enumerate(messages):
        if said["role"] == "assistant":
            before = rendered(tokenizer, messages[:place], prompt=True, tools=tools)
            turn = rendered(tokenizer, messages[: place + 1], tools=tools).rstrip()
            if not (turn.startswith(before) and turn.endswith(end.strip()) and text.startswith(turn)):
                raise StageError(
                    "the chat template writes a turn otherwise once another follows: which tokens the assistant says cannot be told"
                )
            spans.append((len(before), len(turn)))
    return spanned(tokenizer, text, spans)


def _tool_texts(messages: Messages, tools: Tools | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What must be in the text of a conversation with tools, and the forms that it may have there: as it is, and as in JSON."""
    yield from (("a function on offer", _forms(tool.get("function", tool).get("name"))) for tool in tools or ())
    for said in messages:
        if said["role"] == "tool":
            yield "a tool's result", _forms(said["content"].strip())
        for call in said.get("tool_calls") or ():
            yield "a tool call", _forms(call["function"]["name"])
            yield from (("a tool call's arguments", _forms(leaf)) for leaf in _leaves(call["function"]["arguments"]))


def _forms(value: Any) -> tuple[str, ...]:
    return str(value), *(json.dumps(value, ensure_ascii=plain).strip('"') for plain in (True, False))


def _leaves(value: Any) -> Iterator[Any]:
    """The values of JSON that are neither lists nor objects."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value
