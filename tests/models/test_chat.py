"""A model keeps its template, what the assistant says is found in it or it is refused, and two that differ are told apart."""

import re
from functools import partial

import pytest

from models.core.errors import StageError, UserError
from models.train import chat, vocabulary
from tests.architectures import (
    CHATML_TOKENS,
    CHATML_WITH_DEFAULT,
    GEMMA,
    GEMMA_TOKENS,
    LLAMA_2,
    LLAMA_3,
    LLAMA_TOKENS,
    MISTRAL,
    QWEN,
    THINKING,
    ZEPHYR,
    byte_level,
    pieces,
)

LLAMA_3_TOKENS = ["<s>", "<unk>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
STYLES = {
    "llama-2": partial(pieces, LLAMA_TOKENS, LLAMA_2, prepend=True, eos_token="</s>"),
    "llama-3": partial(pieces, LLAMA_3_TOKENS, LLAMA_3, eos_token="<|eot_id|>"),
    "mistral": partial(pieces, LLAMA_TOKENS, MISTRAL, eos_token="</s>"),
    "gemma": partial(pieces, GEMMA_TOKENS, GEMMA, eos_token="<eos>", pad_token="<pad>"),
    "qwen": partial(QWEN, CHATML_WITH_DEFAULT),
    "qwen-thinking": partial(QWEN, THINKING),
    "zephyr": partial(pieces, LLAMA_TOKENS, ZEPHYR, eos_token="</s>"),
    "chatml": partial(byte_level, CHATML_TOKENS, chat.CHATML, eos_token="<|im_end|>"),
    "none": partial(byte_level, ["<|endoftext|>"], eos_token="<|endoftext|>"),
    "none-pieces": partial(pieces, LLAMA_TOKENS, eos_token="</s>"),
}
ENDS = {"llama-2": " </s>", "llama-3": "<|eot_id|>", "gemma": "<end_of_turn>", "none": "<|endoftext|>"}
ENDS |= dict.fromkeys(("qwen", "qwen-thinking", "chatml"), "<|im_end|>") | dict.fromkeys(("mistral", "zephyr", "none-pieces"), "</s>")
REPLIES = ["Hello Ton ü🙂", "user\n[INST] 2 + 2 = 4", "  Bye.\n"]
CONVERSATION = [{"role": "system", "content": "Be brief."}] + [
    message
    for number, reply in enumerate(REPLIES)
    for message in ({"role": "user", "content": f"Say {number}:  Hello Ton ü🙂"}, {"role": "assistant", "content": reply})
]


def ready(style: str):
    return vocabulary.chat_ready(STYLES[style]())


def runs(ids: list[int], said: list[int]) -> list[list[int]]:
    """The tokens that the assistant says, a list a reply."""
    found: list[list[int]] = []
    for place, (token, mine) in enumerate(zip(ids, said, strict=True)):
        if mine:
            found.append([]) if not place or not said[place - 1] else None
            found[-1].append(token)
    return found


@pytest.mark.parametrize("style", STYLES)
def test_the_assistant_says_its_replies_and_their_ends_and_nothing_else(style):
    tokenizer = ready(style)
    found = [tokenizer.decode(tokens) for tokens in runs(*chat.coder(tokenizer)(CONVERSATION))]
    kept = style in ("qwen", "qwen-thinking", "zephyr", "chatml", "none", "none-pieces")  # the others strip replies
    thought = "<think>\n\n</think>\n\n" if style == "qwen-thinking" else ""
    expected = [reply if kept else reply.strip() for reply in REPLIES]
    assert [text.lstrip(" ") for text in found[:2]] == [reply + ENDS[style] for reply in expected[:2]]
    assert found[2].strip(" ") == (thought + expected[2] + ENDS[style]).strip(" ")


@pytest.mark.parametrize("style", STYLES)
def test_what_is_learned_is_what_is_asked_for_when_serving(style):
    tokenizer = ready(style)
    asked = CONVERSATION[:2]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    ids, said = chat.coder(tokenizer)([*asked, {"role": "assistant", "content": "Hello Ton"}])
    assert ids[: len(prompt)] == prompt
    assert said[: len(prompt)] == [0] * len(prompt)
    assert said[len(prompt)] == 1


@pytest.mark.parametrize("style", STYLES)
def test_a_system_message_reaches_the_model_under_every_template(style):
    assert chat.rendered(ready(style), CONVERSATION).count("Be brief.") == 1


@pytest.mark.parametrize("style", sorted(set(STYLES) - {"none", "none-pieces", "llama-3"}))
def test_a_published_template_renders_as_it_was_published(style):
    published, tokenizer = STYLES[style](), ready(style)
    assert chat.rendered(tokenizer, CONVERSATION[1:], prompt=False) == chat.rendered(published, CONVERSATION[1:])
    assert chat.rendered(tokenizer, CONVERSATION[1:2], prompt=True) == chat.rendered(published, CONVERSATION[1:2], prompt=True)
    assert tokenizer.chat_template.endswith(published.chat_template)


@pytest.mark.parametrize("style", STYLES)
def test_a_published_tokenizer_gets_no_new_tokens_and_is_ready_once(style):
    tokenizer = ready(style)
    assert tokenizer.get_vocab() == STYLES[style]().get_vocab()
    once = (tokenizer.chat_template, tokenizer.special_tokens_map)
    vocabulary.chat_ready(tokenizer)
    assert (tokenizer.chat_template, tokenizer.special_tokens_map) == once


def test_a_template_that_asks_for_the_date_is_always_told_the_same():
    text = chat.rendered(ready("llama-3"), CONVERSATION)
    assert "Today: 26 Jul 2024" in text
    assert chat.rendered(STYLES["llama-3"](), CONVERSATION) != text


def test_generation_stops_at_the_end_of_a_text_and_at_the_end_of_a_reply():
    assert [ready("gemma").convert_ids_to_tokens(end) for end in chat.ends(ready("gemma"))] == ["<eos>", "<end_of_turn>"]
    assert [ready("qwen").convert_ids_to_tokens(end) for end in chat.ends(ready("qwen"))] == ["<|im_end|>"]


def test_padding_is_what_the_tokenizer_has():
    assert {style: ready(style).pad_token for style in ("llama-2", "gemma", "none")} == {
        "llama-2": "<unk>",
        "gemma": "<pad>",
        "none": "<|endoftext|>",
    }


UNUSABLE = {
    "never ends": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}",
    "ends in plain text": "{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}",
    "drops replies": "{% for m in messages if m['role'] == 'user' %}{{ m['content'] + eos_token }}{% endfor %}",
    "rewrites replies": "{% for m in messages %}{{ m['content'] | upper + eos_token }}{% endfor %}",
    "shouts": "{% for m in messages %}{{ m['content'] | replace('l', 'L') + eos_token }}{% endfor %}",
    "refuses everything": "{{ raise_exception('no') }}",
    "is broken": "{% for m in messages %}",
    "marks nothing": "{% generation %}{% endgeneration %}{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}",
}


@pytest.mark.parametrize("template", UNUSABLE.values(), ids=UNUSABLE)
def test_a_template_that_cannot_be_masked_is_refused_in_one_line(template):
    with pytest.raises(UserError, match=r"^pretrained: ") as refused:
        vocabulary.chat_ready(pieces(LLAMA_TOKENS, template, eos_token="</s>"))
    assert "\n" not in str(refused.value)


def test_a_tokenizer_without_an_end_is_refused():
    with pytest.raises(UserError, match="no end token, must have one"):
        vocabulary.chat_ready(byte_level(["<x>"]))


def test_a_conversation_that_the_template_refuses_is_named_by_its_roles():
    twice = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(StageError, match=re.escape("refuses a conversation of user user (Roles must alternate)")):
        chat.rendered(ready("mistral"), twice)


def test_equal_tokenizers_have_not_drifted(tmp_path):
    tokenizer = ready("gemma")
    vocabulary.save(tokenizer, tmp_path / "saved")
    chat.refuse_drift(vocabulary.load(tmp_path / "saved"), ready("gemma"), "reward", "sft")


def test_another_template_is_shown_as_the_difference_in_a_conversation():
    with pytest.raises(StageError, match="the tokenizer of reward is not the one that sft was made with") as refused:
        chat.refuse_drift(vocabulary.chat_ready(QWEN(chat.CHATML)), ready("qwen-thinking"), "reward", "sft")
    lines = str(refused.value).splitlines()
    assert lines[1:3] == ["--- sft", "+++ reward"]
    assert {"-<think>", " Hello!<|im_end|>"} <= set(lines)


def test_another_special_token_is_drift():
    other = ready("qwen")
    other.eos_token = "<|endoftext|>"
    with pytest.raises(StageError) as refused:
        chat.refuse_drift(other, ready("qwen"), "tokenizer", "the model")
    assert "-eos_token = <|im_end|> (2)" in str(refused.value)
    assert "+eos_token = <|endoftext|> (0)" in str(refused.value)


def test_tokens_in_another_order_are_drift_though_every_text_looks_the_same():
    other = vocabulary.chat_ready(byte_level(CHATML_TOKENS[:1] + CHATML_TOKENS[:0:-1], CHATML_WITH_DEFAULT, **QWEN.keywords))
    with pytest.raises(StageError, match=r"(?m)^-eos_token = <\|im_end\|> \(2\)$"):
        chat.refuse_drift(other, ready("qwen"), "tokenizer", "the model")


def test_templates_that_differ_where_no_conversation_shows_it_are_shown_themselves():
    other = ready("qwen")
    other.chat_template += "{# a remark #}"
    with pytest.raises(StageError, match="a remark"):
        chat.refuse_drift(other, ready("qwen"), "tokenizer", "the model")
