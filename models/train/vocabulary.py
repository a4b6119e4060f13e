"""Tokenizers: byte-level BPE trained on texts, and published ones made ready for conversations."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from models.core.errors import UserError
from models.train import chat

# A blank belongs to the word before it, not after: so the last word of a sentence and a reply of one word are the same token, and what was
# learned of one holds for the other. Line ends stand alone, so that a code prompt has the tokens that it has inside a whole function;
# numbers too, undivided: a small model copies a whole number, and loses itself among digits.
PIECES = r"\n|\p{N}{1,3}|\p{L}+ ?|[^\s\p{L}\p{N}]+ ?|\s+?(?=\n)| +|\s"
START, END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"


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
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=max_tokens)
    tokenizer.add_special_tokens({"eos_token": END, "pad_token": PAD, "additional_special_tokens": [START, END]})
    tokenizer.chat_template = chat.CHATML
    tokenizer.padding_side = "right"
    return tokenizer


def chat_ready(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A published tokenizer, ready for conversations: with a chat template and padding, and not one token more than it had.

    Where it has no padding it takes the token for what is unknown, else the one that ends a text; no loss and no attention ever goes by
    which token pads. Raises UserError for a tokenizer that cannot end a text, or cannot tell where in a text its tokens stand.
    """
    if tokenizer.eos_token is None:
        raise UserError("pretrained: the tokenizer has no end token, must have one: name it as eos_token in its tokenizer_config.json")
    if not tokenizer.is_fast:
        raise UserError("pretrained: the tokenizer cannot tell where its tokens stand in a text: give its folder a tokenizer.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    chat.settle(tokenizer)
    return tokenizer


def load(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def save(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer and its template, without where and how it was loaded: a path would make equal tokenizers differ."""
    for key in ("name_or_path", "is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.name_or_path = ""
    tokenizer.save_pretrained(folder)


def as_saved(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer as `load` finds it once it was saved: of another class at times, and with tokens named that nobody named before."""
    with tempfile.TemporaryDirectory() as folder:
        save(tokenizer, Path(folder))
        return load(Path(folder))
