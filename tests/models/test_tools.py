"""Conversations with tool calls are learned as the model's template writes them, or left out with the reason; none is flattened."""

import pytest

from models.core.errors import StageError
from models.core.files import write_lines
from models.data import kinds
from models.train import chat, tools
from models.train.methods import finetune
from tests.architectures import CHATML_TOKENS, byte_level

SHOWS = (
    "{%- if tools %}{{- '<|im_start|>system\nFunctions: ' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{%- for call in message.tool_calls or [] %}{{- '\n[call] ' + (call.function | tojson) }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
REWRITES = SHOWS.replace(
    "message['content']", "(message['content'] if loop.last or message.role != 'user' else message['content'] | upper)"
)
FORGETS = SHOWS.replace("message['content']", "(message['content'] if message.role != 'tool' else '')")
REFUSES = SHOWS.replace("{%- for call in", "{%- if message.tool_calls %}{{ raise_exception('no calls') }}{%- endif %}{%- for call in")
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": 'Köln "Süd"', "days": 3}}}
OFFER = [{"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": {}}}]
MESSAGES = [
    {"role": "user", "content": "Will it rain?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "no rain"},
    {"role": "assistant", "content": "No."},
]
PLAIN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def tokenizer_with(template):
    return byte_level(CHATML_TOKENS, template, eos_token="<|im_end|>")


def record(number, messages, **more):
    return {"id": str(number), "messages": messages, "source": "s", **more}


def test_the_assistant_says_its_calls_and_what_ends_them():
    tokenizer = tokenizer_with(SHOWS)
    ids, said = tools.coded(tokenizer, MESSAGES, OFFER)
    spoken = tokenizer.decode([token for token, mine in zip(ids, said, strict=True) if mine])
    assert spoken.startswith('\n[call] {"name": "weather", "arguments": {"city": "Köln')
    assert spoken.endswith("}}<|im_end|>No.<|im_end|>")
    assert "no rain" not in spoken
    assert "no rain" in tokenizer.decode(ids)
    assert "Functions: " in tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("template", "offer", "said"),
    [
        (chat.CHATML, None, "does not show a tool call"),
        (SHOWS.replace("call.function | tojson", "call.function.name"), None, "does not show a tool call's arguments"),
        (SHOWS.replace("if tools", "if no_tools"), [{"function": {"name": "tides"}}], "does not show a function on offer"),
        (FORGETS, None, "does not show a tool's result"),
        (REWRITES, None, "writes a turn otherwise once another follows"),
        (REFUSES, None, "refuses a conversation"),
    ],
)
def test_what_a_template_cannot_show_is_refused(template, offer, said):
    with pytest.raises(StageError, match=said):
        tools.coded(tokenizer_with(template), MESSAGES, offer)


def test_a_conversation_that_the_template_cannot_show_is_left_out_counted_and_told_of(tmp_path, capsys):
    path = tmp_path / "train.jsonl"
    write_lines(path, [record(1, PLAIN), record(2, MESSAGES, tools=OFFER), record(3, MESSAGES, tools=OFFER)])
    rows, left_out = finetune.conversations(path, tokenizer_with(chat.CHATML), 500)
    assert (len(rows), left_out) == (1, (0, 2))
    assert "2 conversations with tools are left out: the chat template does not show a function on offer" in capsys.readouterr().out
    rows, left_out = finetune.conversations(path, tokenizer_with(SHOWS), 500)
    assert (len(rows), left_out) == (3, (0, 0))
    write_lines(path, [record(2, MESSAGES)])
    with pytest.raises(StageError, match="and a template for its tools"):
        finetune.conversations(path, tokenizer_with(chat.CHATML), 500)


@pytest.mark.parametrize(
    ("messages", "broken"),
    [
        (MESSAGES, False),
        (MESSAGES[:2], False),  # the call is the answer
        ([*MESSAGES, *PLAIN], False),
        ([*MESSAGES[:3], *MESSAGES[1:]], False),  # two steps of work
        (MESSAGES[:3], True),  # a result that nobody answers
        ([MESSAGES[0], MESSAGES[2], MESSAGES[3]], True),  # a result of no call
        ([MESSAGES[0], {**MESSAGES[1], "tool_calls": []}, *MESSAGES[2:]], True),
        ([MESSAGES[0], {**MESSAGES[1], "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, *MESSAGES[2:]], True),
        ([{**MESSAGES[0], "tool_calls": [CALL]}, PLAIN[1]], True),
    ],
)
def test_where_calls_and_results_may_stand(messages, broken):
    assert kinds.is_broken("instructions", record(1, messages)) is broken
    assert kinds.is_broken("prompts", {"id": "1", "prompt": messages})


def test_the_texts_of_a_call_are_read_and_rewritten():
    one = record(1, MESSAGES, tools=OFFER)
    texts = [text for _, text in kinds.texts("instructions", one)]
    assert texts == ["Will it rain?", '{"name": "weather", "arguments": {"city": "Köln \\"Süd\\"", "days": 3}}', "no rain", "No."]
    changed = kinds.rewritten("instructions", one, str.upper)
    assert changed["messages"][1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": 'KÖLN "SÜD"', "days": 3}}
    assert one["messages"][1]["tool_calls"] == [CALL]
    assert changed["tools"] == OFFER
