"""Chat templates: the one that a model is trained, scored and served with, which tokens the assistant says, and where two of them part.

A published model keeps its template. What the template lacks is added to it once, when the tokenizer is taken, and travels with it: so
training, lm-eval and the server render alike.
"""

import re
from collections.abc import Callable
from datetime import date
from difflib import unified_diff
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from models.core.errors import StageError, UserError

Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]]
Coder = Callable[[Messages], tuple[list[int], list[int]]]

# ChatML, for tokenizers trained here. What stands between the generation marks is what an assistant-only loss trains on: the reply and the
# token that ends it.
CHATML = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' %}"
    "{% generation %}{{- message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{%- else %}{{- message['content'] + '<|im_end|>' }}{%- endif %}"
    "{{- '\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
# For published models without a template: words that every model knows and its own end token, so that no row of it is random.
PLAIN = (
    "{%- for message in messages %}"
    "{{- message['role'] | capitalize + ':\n' + message['content'] }}"
    "{%- if message['role'] == 'assistant' %}{{- eos_token }}{%- endif %}"
    "{{- '\n\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'Assistant:\n' }}{%- endif %}"
)
# Before a template that refuses or drops system messages: the text goes to the head of the first message. An expression ends it, because
# Jinja would take a line break after a block away.
FOLDED = (
    "{%- if messages[0]['role'] == 'system' and messages | length > 1 %}"
    "{%- set messages = [{'role': messages[1]['role'], 'content': messages[0]['content'] + '\n\n' + messages[1]['content']}]"
    " + messages[2:] %}"
    "{%- endif %}{{- '' }}"
)
TODAY = date(2024, 7, 26)  # for templates that ask: what Llama's assume. The true date would make equal runs differ.
CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
MARK = "\ue000"  # stands for a reply; of the private use area, so that no text holds it
SAMPLE: Messages = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "And now?"},
]


def settle(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a published tokenizer the template that it is trained, scored and served with: its own, or PLAIN where it has none.

    Its clock stands still, and system messages that it would refuse or drop go to the head of the first message. Raises UserError where
    nobody could tell what of a conversation the assistant says.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):  # one a purpose
        template = template.get("default")
    bos = "{{- bos_token }}" if begin(tokenizer) else ""
    template = CLOCK.sub(lambda asked: repr(TODAY.strftime(asked[2])), template) if template else bos + PLAIN
    own = template if _keeps_system(tokenizer, template) or not _keeps_system(tokenizer, FOLDED + template) else FOLDED + template
    tokenizer.chat_template = own
    try:
        ids, said = coder(tokenizer)(SAMPLE[1:3])
    except StageError as error:
        raise UserError(f"pretrained: {error}: mend the chat template in the tokenizer's folder") from error
    if "hello" not in tokenizer.decode([token for token, mine in zip(ids, said, strict=True) if mine]).lower():
        raise UserError("pretrained: the generation marks of the chat template do not hold the reply: mend it in the tokenizer's folder")


def _keeps_system(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    try:
        return SAMPLE[0]["content"] in tokenizer.apply_chat_template(SAMPLE[:2], chat_template=template, tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return False


def begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that the tokenizer itself puts before a text, if any: the model was trained on texts that begin with it."""
    first = tokenizer("").input_ids[:1]
    return [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else []


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Messages, prompt: bool = False, tools: Tools | None = None) -> str:
    """A conversation as text; `prompt` adds what comes before a reply. Raises StageError where the template refuses it."""
    return str(_applied(tokenizer, messages, tokenize=False, add_generation_prompt=prompt, tools=tools))


def _applied(tokenizer: PreTrainedTokenizerBase, messages: Messages, **how: Any) -> Any:
    try:
        return tokenizer.apply_chat_template(messages, **how)
    except (TemplateError, TypeError, ValueError, OverflowError) as error:  # the last: of marks around nothing
        roles = " ".join(message["role"] for message in messages)
        reason = str(error).strip().partition("\n")[0]
        raise StageError(f"the model's chat template refuses a conversation of {roles} ({reason})") from error


def ending(tokenizer: PreTrainedTokenizerBase) -> tuple[str, int]:
    """What the template writes after a reply up to the token that ends it, and that token's id.

    Raises StageError where no token ends it: whatever learns from such a template never stops.
    """
    after = rendered(tokenizer, [SAMPLE[1], {"role": "assistant", "content": MARK}]).rpartition(MARK)[2]
    names = {name for name in (*tokenizer.get_added_vocab(), tokenizer.eos_token) if name and name.strip()}
    found = re.match(rf"\s*({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})", after) if names else None
    if found is None:
        raise StageError(
            f"the chat template writes {after[:40]!r} after a reply, must begin with a token of the vocabulary that ends it, "
            f"such as {tokenizer.eos_token!r}"
        )
    return found[0], tokenizer.convert_tokens_to_ids(found[1])


def ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens at which generation stops: the end of a text and, where it is another, the end of a reply."""
    turn = [ending(tokenizer)[1]] if tokenizer.chat_template else []
    return list(dict.fromkeys([tokenizer.eos_token_id, *turn]))


def coder(tokenizer: PreTrainedTokenizerBase) -> Coder:
    """What turns a conversation into its token ids and a 1 for each that the assistant says: its words and the token that ends them.

    Generation marks in the template say it; without them it is found from the text. The coder raises StageError where the template
    refuses a conversation, or rewrites a reply.
    """
    if MARKED.search(tokenizer.chat_template):

        def by_marks(messages: Messages) -> tuple[list[int], list[int]]:
            coded = _applied(tokenizer, messages, return_dict=True, return_assistant_tokens_mask=True)
            return coded["input_ids"], coded["assistant_masks"]

        return by_marks
    end, _ = ending(tokenizer)

    def by_places(messages: Messages) -> tuple[list[int], list[int]]:
        text = rendered(tokenizer, messages)
        return spanned(tokenizer, text, _spans(tokenizer, messages, text, end))

    return by_places


def spanned(tokenizer: PreTrainedTokenizerBase, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The text's tokens, and a 1 for each that stands in one of the spans."""
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    # A token without characters of its own, such as a byte of a character or a lone word border, counts where it stands.
    places = [(first, max(last, first + 1)) for first, last in coded["offset_mapping"]]
    return coded["input_ids"], [int(any(first < stop and start < last for start, stop in spans)) for first, last in places]


def _spans(tokenizer: PreTrainedTokenizerBase, messages: Messages, text: str, end: str) -> list[tuple[int, int]]:
    """Where in `text` the replies stand, from what the prompt for each leaves to be written up to its end token.

    Each reply is replaced by a mark; what lies between the marks is the template's, whatever it does with earlier messages.
    """
    marked = [{**message, "content": MARK} if message["role"] == "assistant" else message for message in messages]
    pieces = rendered(tokenizer, marked).split(MARK)
    replies = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    at, spans = len(pieces[0]), list[tuple[int, int]]()
    if len(pieces) != len(replies) + 1 or not text.startswith(pieces[0]):
        raise StageError("the chat template drops or repeats a reply: which tokens the assistant says cannot be told")
    for number, place in enumerate(replies):
        after = pieces[number + 1]
        words = re.compile(rf"\s*{re.escape(messages[place]['content'].strip())}\s*?(?={re.escape(after)})").match(text, at)
        if words is None:
            raise StageError("the chat template rewrites a reply: which tokens the assistant says cannot be told")
        lead = _lead(tokenizer, marked[:place], MARK.join(pieces[: number + 1]))
        spans.append((at - lead, words.end() + len(end) * after.startswith(end)))
        at = words.end() + len(after)
    return spans


def _lead(tokenizer: PreTrainedTokenizerBase, before: Messages, written: str) -> int:
    """How many characters the template writes between the prompt for a reply and its first word: the model has to write them itself."""
    try:
        prompt = rendered(tokenizer, before, prompt=True)
    except StageError:
        return 0
    return len(written) - len(prompt) if written.startswith(prompt) else 0


def refuse_drift(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, our_name: str, their_name: str) -> None:
    """Raise StageError, with what the two make of one conversation as a unified diff, unless they agree on template and tokens."""
    if _identity(ours) == _identity(theirs):
        return
    pairs = [*zip(_portrait(theirs), _portrait(ours), strict=True), *zip(_identity(theirs), _identity(ours), strict=True)]
    before, after = next((before, after) for before, after in pairs if before != after)
    difference = "\n".join(unified_diff(before, after, their_name, our_name, lineterm="", n=1))
    raise StageError(
        f"the tokenizer of {our_name} is not the one that {their_name} was made with, must be the same: run the stages between them anew\n"
        f"{difference[:4000]}"
    )


def _identity(tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], ...]:
    """Template, special tokens and vocabulary, as lines."""
    template = str(tokenizer.chat_template).splitlines()
    special = [f"{name} = {token}" for name, token in sorted(tokenizer.special_tokens_map.items())]
    return template, special, [f"{place} {token}" for token, place in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]


def _portrait(tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], ...]:
    """A short conversation as the model would learn it and be asked, with the special tokens; then the same as tokens."""
    text = rendered(tokenizer, SAMPLE[:3]) + "\n" + rendered(tokenizer, SAMPLE, prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    special = [f"{name} = {token} ({tokenizer.convert_tokens_to_ids(token)})" for name, token in tokenizer.special_tokens_map.items()]
    return [*text.splitlines(), *sorted(special)], [
        f"{token} {name}" for token, name in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)
    ]
