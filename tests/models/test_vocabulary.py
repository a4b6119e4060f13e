"""Tokenizers give texts back unchanged, and code prompts the tokens they have inside whole functions."""

import pytest

from models.train import chat, vocabulary

PROMPT = 'def add_stone(number):\n    """\n    First, add 12.\n    """\n'
BODY = "    first = number + 12\n    return first\n"
CHAT = [{"role": "user", "content": "Where does Bo live?"}, {"role": "assistant", "content": "Ton"}]


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.train([PROMPT + BODY, "Bo lives in Ton. " * 20] * 5, 400, 128)


def test_any_text_comes_back_unchanged(tokenizer):
    for text in (PROMPT + BODY, "naïve\t  — 北京 🙂\r\n", " leading and trailing  "):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_code_prompt_has_the_tokens_that_begin_the_whole_function(tokenizer):
    prompt, whole = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (PROMPT, PROMPT + BODY))
    assert whole[: len(prompt)] == prompt


def test_the_loss_mask_covers_the_reply_and_its_end_and_nothing_else(tokenizer):
    coded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    said = [token for token, mine in zip(coded["input_ids"], coded["assistant_masks"], strict=True) if mine]
    assert tokenizer.decode(said) == "Ton<|im_end|>"


def test_the_prompt_for_a_reply_is_the_beginning_of_the_whole_conversation(tokenizer):
    prompt = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert chat.rendered(tokenizer, CHAT).startswith(prompt)


def test_padding_is_not_the_token_that_ends_a_reply(tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids(vocabulary.END)


def test_a_saved_tokenizer_keeps_the_template_and_names_no_folder(tokenizer, tmp_path):
    vocabulary.save(tokenizer, tmp_path / "saved")
    again = vocabulary.load(tmp_path / "saved")
    assert again.chat_template == tokenizer.chat_template
    vocabulary.save(again, tmp_path / "again")
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (tmp_path / "saved" / path.name).read_bytes()
        assert str(tmp_path) not in path.read_text()
