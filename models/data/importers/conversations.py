"""What people write conversations as, to messages {role, content}: chat with tool calls, ShareGPT, Alpaca, prompts with a completion.

What a function here cannot make a message of, it raises Fault about; nothing is guessed, and nothing of a message goes but keys without
a meaning for training.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from models.core.given import parse_text
from models.data.importers.lines import Fault

Message = dict[str, Any]
Messages = list[Message]
Made = tuple[str, str, dict[str, Any]]
"""Kind, what the id gains behind the row's, and the record without id and source."""

ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "call",
    "tool_call": "call",
}
"""What a role is called, and what it is; `call` is an assistant's message that is a tool call and nothing else."""
PROMPT = ("prompt", "instruction", "question", "query", "input")
COMPLETION = ("completion", "response", "output", "answer")


def text(row: Mapping[str, Any], *names: str) -> str:
    """The text of the first of these columns that the row has."""
    value = first(row, names)
    if not isinstance(value, str):
        raise Fault("a text is missing" if value is None else "a text is of another type", f"{names[0]}: {type(value).__name__}")
    return value


def optional(row: Mapping[str, Any], *names: str) -> str:
    """The same of columns that may be null or not there; "" then."""
    return "" if first(row, names) is None else text(row, *names)


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of these columns that the row has; None where it has none."""
    for name in names:
        if name in row:
            return row[name]
    return None


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def listed(value: Any) -> list[Any] | None:
    """A list, also where a table holds it as JSON; None for anything else."""
    if isinstance(value, str) and value[:1] == "[":
        try:
            value = parse_text(value)
        except ValueError:
            return None
    return value if isinstance(value, list) else None


def is_talk(value: Any, *keys: str) -> bool:
    """Whether a value is a list of objects, of which the first has one of these keys."""
    found = listed(value)
    return found is not None and found != [] and isinstance(found[0], dict) and any(key in found[0] for key in keys)


def messages(value: Any) -> Messages:
    """A list of {role, content} or {from, value} as messages. Raises Fault where it is none."""
    found = listed(value)
    if found is None:
        raise Fault("a conversation is no list of messages", type(value).__name__)
    return [message(one) for one in found]


def message(one: Any) -> Message:
    if not isinstance(one, dict):
        raise Fault("a message is no object", type(one).__name__)
    name, content = one.get("role"), one.get("content")
    if name is None:
        name, content = one.get("from"), one.get("value")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise Fault("a role that is not known", str(name)[:20] if isinstance(name, str) else type(name).__name__)
    if type(content) is str and role != "call" and role != "tool" and len(one) == 2:  # as nearly all are
        return {"role": role, "content": content}
    if role == "call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(content)}
    calls = one.get("tool_calls") or _old_call(one)
    made: Message = {"role": role, "content": _content(content, bool(calls))}
    if calls:
        made["tool_calls"] = _calls(calls)
    for key in ("name", "tool_call_id"):
        if role == "tool" and isinstance(one.get(key), str):
            made[key] = one[key]
    return made


def _old_call(one: Mapping[str, Any]) -> Any:
    """The call of a message as OpenAI wrote it before there could be several."""
    call = one.get("function_call")
    return [{"type": "function", "function": call}] if call else None


def _content(content: Any, calls: bool) -> str:
    """The text of a message; of one in parts, their texts. Raises Fault where there is none, or a part is a picture or a sound."""
    if isinstance(content, str):
        return content
    if content is None and calls:
        return ""
    if isinstance(content, list) and content:
        parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise Fault("a message has parts that are no text")
        return "\n\n".join(parts)  # type: ignore[arg-type]
    raise Fault("a text is missing" if content is None else "a text is of another type", f"of a message: {type(content).__name__}")


def _calls(value: Any) -> list[dict[str, Any]]:
    """Tool calls as templates take them: {id, type, function: {name, arguments}}, arguments as an object, not as its JSON."""
    found = _object(value) if isinstance(value, str) else value
    calls = found if isinstance(found, list) else [found]
    return [_call(call) for call in calls]


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Fault("a tool call without a name")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = _object(arguments or "{}") if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        raise Fault("the arguments of a tool call are no object")
    made: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if isinstance(call.get("id"), str) else made


def _object(value: str) -> Any:
    try:
        return parse_text(value)
    except ValueError:
        raise Fault("a tool call is not valid JSON") from None


def tools(row: Mapping[str, Any]) -> dict[str, Any]:
    """{"tools": [...]} of a row that has any: functions as a template takes them."""
    value = row.get("tools") or row.get("functions")
    if not value:
        return {}
    found = _object(value) if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Fault("tools is no list of functions")
    return {"tools": [one if "function" in one else {"type": "function", "function": one} for one in found]}


def with_system(row: Mapping[str, Any], conversation: Messages) -> Messages:
    """The conversation behind the row's system message, where it has a column for one."""
    system = optional(row, "system", "system_prompt", "system_message")
    if not system or conversation[:1] == [said("system", system)]:
        return conversation
    return [said("system", system), *conversation]


def instruction(conversation: Messages, more: Mapping[str, Any]) -> Iterator[Made]:
    yield "instructions", "", {"messages": conversation, **more}


def question(conversation: Messages) -> Iterator[Made]:
    """What comes before the last answer, as a prompt."""
    while conversation and conversation[-1]["role"] != "user":
        conversation = conversation[:-1]
    yield "prompts", "", {"prompt": conversation}


def as_conversation(value: Any, role: str) -> Messages:
    """A text as one message of that role, a list, also as JSON, as the messages that it has."""
    if value is None:
        raise Fault("a text is missing", f"of the {role}")
    if isinstance(value, str) and not is_talk(value, "role", "from"):
        return [said(role, value)]
    return messages(value)


def chat(row: Mapping[str, Any], *columns: str) -> Messages:
    return with_system(row, messages(first(row, columns)))


def alpaca(row: Mapping[str, Any]) -> Messages:
    """Instruction, input where there is one, output; what was said before them is `history`, a list of pairs."""
    asked = [text(row, "instruction"), optional(row, "input", "context")]
    before = [said(role, part) for pair in _history(row) for role, part in zip(("user", "assistant"), pair, strict=True)]
    answer = text(row, "output", "response", "answer")
    turn = [said("user", "\n\n".join(part for part in asked if part.strip())), said("assistant", answer)]
    return with_system(row, [*before, *turn])


def _history(row: Mapping[str, Any]) -> list[Any]:
    found = listed(row.get("history") or []) or []
    if not all(isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in found):
        raise Fault("history is no list of pairs of texts")
    return found


def completed(row: Mapping[str, Any]) -> Messages:
    """A prompt and its completion: texts, or lists of messages."""
    asked = as_conversation(first(row, PROMPT), "user")
    return with_system(row, [*asked, *as_conversation(first(row, COMPLETION), "assistant")])


def asked(row: Mapping[str, Any]) -> Messages:
    return with_system(row, as_conversation(first(row, PROMPT), "user"))


def tasks(row: Mapping[str, Any]) -> Iterator[Made]:
    """Seed tasks written by people: the instruction, with each of its inputs and outputs."""
    name, instances = row.get("id"), row.get("instances")
    if not (isinstance(name, str) and name) and type(name) is not int:
        raise Fault("id is no name")
    if not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
        raise Fault("instances is no list of inputs and outputs")
    for place, one in enumerate(instances):
        conversation = alpaca({"instruction": row.get("instruction"), "input": one.get("input"), "output": one.get("output")})
        yield "instructions", f"{name}/{place}", {"messages": conversation}
