"""Scores of one model on one suite, item by item: the one door to lm-eval's evaluation.

The suite's folder says what is asked (models/score/suite.py); lm-eval asks the model, and computes the metrics of its own tasks. What it
would write itself is left aside, because its samples carry the text of every question: items.jsonl and evidence.json are ours.

We call its `evaluate`, not `simple_evaluate`: that one asks a model hub for the model's revision, starts a dozen processes to describe the
machine and puts a date into the results.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lm_eval.evaluator import evaluate
from transformers import AutoTokenizer

from models.core.content import folder_md5
from models.core.errors import StageError
from models.core.files import write_json, write_lines
from models.core.ranks import ALONE, Ranks
from models.core.sets import OfSet
from models.sandbox import sandbox
from models.score import asking, grading, harness
from models.score import items as kinds
from models.score import suite as suites
from models.score.asking import Result, Settings
from models.score.items import Item
from models.score.local_model import LocalModel, Progress
from models.score.suite import CodeSuite, ExactSuite, HarnessSuite, LabelsSuite, MathSuite, Suite, TextSuite
from models.train.settings import Sampling

GREEDY = Sampling(samples=1, pass_at=1, temperature=0.0)
SCORING = {  # by a suite's format, raised where a score of it may move: tests/models/test_scoring.py says when
    "choice": 1,
    "text": 1,
    "code": 1,
    "math": 1,
    "exact": 1,
    "labels": 1,
    "lm_eval": 1,
}
LIBRARIES = ("lm-eval", "torch", "transformers", "tokenizers")  # they tokenise and compute: another version is another evaluation


class Scorer:
    """One model, loaded once, that can be asked any items of one suite.

    Raises UserError for a broken suite and StageError for a model that the suite cannot ask.
    """

    def __init__(self, model: Path, suite: Path, settings: Settings, device: str, progress: Progress, ranks: Ranks = ALONE) -> None:
        self.model, self.suite, self.settings, self.ranks = model, suite, settings, ranks
        self.described = suites.load(suite)
        is_code = isinstance(self.described, CodeSuite)
        self.isolation = sandbox.isolation() if is_code else None
        self.tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        if self.described.chat and not self.tokenizer.chat_template:
            raise StageError(f"the model's tokenizer has no chat template, but suite {suite.name} asks in chat form: train it with one")
        with harness.quiet():
            self.items, self._task, self._places = self._put()
            self.available = self.isolation is None or self.isolation.backend is not None
            if self.available:
                how = settings if is_code else settings.model_copy(update={"sampling": GREEDY})
                self._asked = LocalModel(model, self.tokenizer, how, device, _heard(progress), ranks)

    def _put(self) -> tuple[list[Item], Any, list[int] | None]:
        """The items that are asked, the suite as a task of lm-eval's, and their places in it; None where they are all of it."""
        settings, folder = self.settings, self.suite
        if isinstance(self.described, HarnessSuite):
            task = harness.load(folder, self.described)
            every = kinds.complete(list(harness.items(folder, self.described, task)), folder)
            chosen = kinds.subset(every, settings.items, settings.items_seed)
            asked = {item.id for item in chosen}
            places = [place for place, item in enumerate(every) if item.id in asked]
            return chosen, task, None if len(chosen) == len(every) else places
        chosen = kinds.subset(kinds.read(folder), settings.items, settings.items_seed)
        examples = kinds.shots(folder, self.described)
        return chosen, asking.task(folder.name, self.described, chosen, examples, self.tokenizer), None

    def results(self, places: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """One record an item, in the suite's order; `places` picks items of the suite, ascending."""
        name, asked = self.suite.name, self._places
        if places is not None:
            asked = list(places) if asked is None else [asked[place] for place in places]
        with harness.quiet():
            tasks, chosen = {"tasks": {name: self._task}, "groups": {}, "group_map": {}}, None if asked is None else {name: asked}
            found = evaluate(self._asked, tasks, samples=chosen, bootstrap_iters=0, apply_chat_template=self.described.chat)["samples"][
                name
            ]
        chosen_items = self.items if places is None else [self.items[place] for place in places]
        return self.ranks.once(lambda: self._records(chosen_items, found))  # programs are run once

    def _records(self, items: Sequence[Item], samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        replies = self._asked.replies
        match self.described:
            case CodeSuite():
                return grading.programs(items, replies, self.settings, self.described.chat)
            case MathSuite():
                return grading.problems(items, replies)
            case ExactSuite():
                return grading.short(self.described, items, replies)
            case LabelsSuite(by="written"):
                return grading.labels(self.described, items, replies)
            case TextSuite():
                return grading.texts(items, samples)
            case HarnessSuite():
                metric = harness.metric(self._task, self.described, self.suite.name)
                kept = harness.filtered(self._task, self.described, self.suite.name, samples)
                return grading.foreign(items, metric, self._asked.cut, replies, kept)
        return grading.choices(self.described, items, self._asked.cut, samples)

    def evidence(self) -> dict[str, Any]:
        """What a comparison of two scores must find equal, and what ran the programs."""
        return _evidence(self)


def score_suite(
    model: Path, suite: Path, output: Path, settings: Settings, device: str, progress: Progress, ranks: Ranks = ALONE
) -> Result:
    """Write items.jsonl and evidence.json into `output` and return the items.

    Raises UserError for a broken suite and StageError for a model that the suite cannot ask.
    """
    scorer = Scorer(model, suite, settings, device, progress, ranks)
    results = scorer.results() if scorer.available else None
    write_lines(output / "items.jsonl", results or [])
    write_json(output / "evidence.json", scorer.evidence())
    return Result(items=results, chance=kinds.chance(scorer.items, scorer.described), of_set=_of_set(scorer))


def _evidence(scorer: Scorer) -> dict[str, Any]:
    """suite_md5 covers the files, what the suite says of how it is asked, and the choice of items."""
    described, settings, isolation = scorer.described, scorer.settings, scorer.isolation
    template, form, of_set = scorer.tokenizer.chat_template, described.format, _of_set(scorer)
    written = not isinstance(described, TextSuite) and (
        form in ("code", "math", "exact", "lm_eval") or getattr(described, "by", "") == "written"
    )
    return {
        "suite": scorer.suite.name,
        "suite_md5": _suite_md5(scorer.suite, described, scorer.items),
        "available": scorer.available,
        "items": len(scorer.items),
        "seed": settings.items_seed,
        "chance": round(kinds.chance(scorer.items, described), 6),
        "target": getattr(described, "target", None),
        "of_set": of_set.model_dump() if of_set else None,
        "harness": _harness(form),
        "scoring": f"{form} {SCORING[form]}",
        "shots": _shots(scorer),
        "chat": described.chat,
        "template_md5": _md5(template) if isinstance(template, str) else None,
        "model_md5": folder_md5(scorer.model),
        "dtype": settings.dtype,
        "batch_size": settings.batch_size,
        "max_new_tokens": settings.max_new_tokens if written else None,
        "sampling": settings.sampling.model_dump_json() if isolation else None,
        "limits": settings.limits.model_dump() if isolation else None,
        "sandbox": (isolation.backend or f"unavailable: {isolation.reason}") if isolation else None,
    }


def _shots(scorer: Scorer) -> int:
    """Worked examples before each question."""
    if isinstance(scorer.described, HarnessSuite):
        return int(scorer._task.config.num_fewshot or 0)
    return scorer.described.shots.count if scorer.described.shots else 0


def _of_set(scorer: Scorer) -> OfSet | None:
    """The metric of the suite, where it belongs to the whole set of items and not to each."""
    described = scorer.described
    if isinstance(described, LabelsSuite) and described.metric != "accuracy":
        positive = None if described.positive is None else described.place(described.positive)
        return OfSet(metric=described.metric, classes=len(described.labels), positive=positive)
    if isinstance(described, HarnessSuite):
        return harness.of_set(scorer._task, described, scorer.suite.name)
    return None


def _suite_md5(folder: Path, described: Suite, items: Sequence[Item]) -> str:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (suites.FILE, kinds.LISTING)]
    md5s = [f"{path.relative_to(folder).as_posix()} {hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}" for path in files]
    return _md5("\n".join([*md5s, json.dumps(suites.asking(described), sort_keys=True), *(item.id for item in items)]))


def _harness(form: str) -> str:
    """What else makes a score, and is not ours: libraries and, where programs are run or answers compared, what does that."""
    names = [*LIBRARIES, *(["math-verify"] * (form == "math"))]
    python = [f"python {sys.version_info.major}.{sys.version_info.minor}"] * (form == "code")
    return ", ".join([*(f"{name} {version(name).partition('+')[0]}" for name in names), *python])


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _heard(progress: Progress) -> Progress:
    """Progress that keeps today's standard error: what it has to say is not lm-eval's."""
    errors = sys.stderr

    def tell(step: int, total: int) -> None:
        with contextlib.redirect_stderr(errors):
            progress(step, total)

    return tell
