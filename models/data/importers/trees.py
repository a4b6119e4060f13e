"""OpenAssistant's message trees: the best-ranked path of each as a conversation, sibling answers of different rank as pairs, the root as a
prompt.

The same questions are in all three kinds; prepare holds the same ones out of each, so that what is held out of one was not trained on
through another.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.data.importers.conversations import Made, Messages, said
from models.data.importers.lines import Fault
from models.data.importers.pairs import LeftOut

WITHOUT_TEXT = "messages without a text, with what follows them"


class Source(BaseModel):
    """A published record: the keys that are read; others may be there."""

    model_config = ConfigDict(frozen=True)


Name = Annotated[str, Field(min_length=1)]


class Message(Source):
    """One message of a tree. A null text is that of a message which was taken back: it goes, with what follows it."""

    message_id: Name
    role: Literal["prompter", "assistant"]
    text: str | None
    deleted: bool | None = False
    rank: int | None = None
    replies: list["Message"] | None = None

    @property
    def lost(self) -> bool:
        """Whether there is no text to be learned from."""
        return not (self.text and self.text.strip())

    @property
    def said(self) -> dict[str, str]:
        return said("user" if self.role == "prompter" else "assistant", self.text or "")


class Tree(Source):
    message_tree_id: Name
    prompt: Message


def tree(row: Mapping[str, Any], notes: Counter[str]) -> Iterator[Made]:
    """The records of one tree; `notes` counts the messages without a text."""
    try:
        found = Tree.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        raise Fault("no message tree", f"{'.'.join(map(str, first['loc']))}: {first['msg'][:80]}") from None
    notes[WITHOUT_TEXT] += _lost(found.prompt)
    if found.prompt.lost:
        raise LeftOut("a tree whose first message has no text")
    path = _best_path(found.prompt)
    if path:
        yield "instructions", found.message_tree_id, {"messages": path}
    yield from _sibling_pairs(found.prompt, [])
    yield "prompts", found.message_tree_id, {"prompt": [found.prompt.said]}


def _lost(message: Message) -> int:
    """How many messages without a text there are, not counting below one."""
    return 1 if message.lost else sum(map(_lost, (reply for reply in message.replies or () if not reply.deleted)))


def _replies(message: Message) -> list[Message]:
    """The replies that have a text and were not deleted, best rank (0) first; those without a rank last, in their order."""
    found = [reply for reply in message.replies or () if not (reply.deleted or reply.lost)]
    return sorted(found, key=lambda reply: (reply.rank is None, reply.rank or 0))


def _best_path(root: Message) -> Messages:
    """The conversation along the first reply of each message, up to the last answer; empty where there is none."""
    path, message = [root.said], root
    while replies := _replies(message):
        message = replies[0]
        path.append(message.said)
    return path if path[-1]["role"] == "assistant" else path[:-1]


def _sibling_pairs(message: Message, before: Messages) -> Iterator[Made]:
    """Yield a pair for every two answers to one message whose ranks differ, and so on down the tree."""
    spoken, replies = [*before, message.said], _replies(message)
    if message.role == "prompter":
        for (better, chosen), (worse, rejected) in combinations(enumerate(replies), 2):
            if chosen.rank is not None and rejected.rank is not None and chosen.rank < rejected.rank:
                answers = {"chosen": [chosen.said], "rejected": [rejected.said]}
                yield "preferences", f"{message.message_id}/{better}-{worse}", {"prompt": spoken, **answers}
    for reply in replies:
        yield from _sibling_pairs(reply, spoken)
