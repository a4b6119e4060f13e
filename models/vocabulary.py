"""Tokenizers: byte-level BPE trained on texts, and the one chat template that travels with a model from training to serving."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

# A blank belongs to the word before it, not after: so the last word of a sentence and a reply of one word are the same token, and what was
# learned of one holds for the other. Line ends stand alone, so that a code prompt has the tokens that it has inside a whole function;
# numbers too, undivided: a small model copies a whole number, and loses itself among digits.
PIECES = r"\n|\p{N}{1,3}|\p{L}+ ?|[^\s\p{L}\p{N}]+ ?|\s+?(?=\n)| +|\s"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
# ChatML. What stands between the generation marks is what an assistant-only loss trains on: the reply and the token that ends it.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}"
    "{{- '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def train(texts: Iterable[str], vocabulary_size: int, max_tokens: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of exactly `vocabulary_size` tokens or, where the texts have no more pairs to merge, fewer.

    Every text can be encoded and comes back unchanged. Tokens stay within what PIECES matches.
    """
    bpe = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PIECES), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return chat_ready(PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=max_tokens))


def chat_ready(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The same tokenizer with the chat template, its tokens (added where the vocabulary has none), and padding that is not the end."""
    tokenizer.add_special_tokens({"eos_token": END, "pad_token": PAD, "additional_special_tokens": [START, END]})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "right"
    return tokenizer


def load(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def save(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer and its template, without where and how it was loaded: a path would make equal tokenizers differ."""
    for key in ("name_or_path", "is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.name_or_path = ""
    tokenizer.save_pretrained(folder)


def conversation_text(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False))
