"""Items as a model will see them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from models.score import asking, harness
from models.score import items as kinds
from models.score.items import Choice, Code, Item, Problem, Short
from models.score.suite import HarnessSuite, Suite

HIDDEN = "the text is not shown: its authors ask so"


def preview(folder: Path, described: Suite, suite_items: Sequence[Item], tokenizer: Path | None, count: int) -> Iterator[str]:
    """Yield the first `count` items: the prompt, and what counts as right. A chat template is the tokenizer's, where there is one."""
    if described.secret:
        yield HIDDEN
        return
    render = _in_chat(tokenizer) if described.chat else lambda prompt: prompt
    asked = _foreign(folder, described, count) if isinstance(described, HarnessSuite) else None
    for place, item in enumerate(suite_items[:count]):
        yield f"--- {item.id}" + (f" ({item.subject})" if item.subject != kinds.NO_SUBJECT else "")
        if asked is not None:
            yield from asked[place]
            continue
        assert not isinstance(described, HarnessSuite)
        prompt = asking.prompts(described, [item], kinds.shots(folder, described), folder.name)[0]
        yield render(prompt) if prompt or described.chat else "(nothing is asked)"
        yield from _right(described, item)


def _in_chat(tokenizer: Path | None) -> Any:
    if tokenizer is None:
        return lambda prompt: f"[user's turn, in the model's template]\n{prompt}\n[assistant's turn]"
    found = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    return lambda prompt: found.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)


def _right(described: Suite, item: Item) -> Iterator[str]:
    match item:
        case Choice():
            for place, text in enumerate(asking.continuations(described, item)):  # type: ignore[arg-type]
                yield f"  {'*' if place == item.answer else ' '} {text}"
        case Short():
            yield f"  * {' | '.join(item.answers)}"
        case Problem():
            yield f"  * {item.answer}"
        case Code():
            yield f"  * passes the tests of {item.entry_point}"


def _foreign(folder: Path, described: HarnessSuite, count: int) -> list[list[str]]:
    """The first prompts of a task of lm-eval's, worked examples included, with what is right."""
    with harness.quiet():
        task = harness.load(folder, described)
        task.build_all_requests(limit=count, rank=0, world_size=1)
    found: dict[int, list[str]] = {}
    for instance in task.instances:
        doc, target = instance.doc, task.doc_to_target(instance.doc)
        lines = found.setdefault(instance.doc_id, [] if task.OUTPUT_TYPE == "loglikelihood_rolling" else [str(instance.args[0])])
        if task.OUTPUT_TYPE == "multiple_choice":
            right = target if isinstance(target, list) else [target]
            lines.append(f"  {'*' if instance.idx in right or task.doc_to_choice(doc)[instance.idx] in right else ' '}{instance.args[1]}")
        else:
            lines.append(f"  * {target}")
    return [found[place] for place in sorted(found)]
