"""The twin that must refuse: an honest candidate is promoted, then six that must not be, each spoiled as it happens to people; then a
slow slide, of which the anchor lets no more pass than the margin.

`make demo-refusal` shows it on the tiny recipe, and leaves the workspace in .work/demo-refusal to look into. Nothing is simulated: data,
params or code are changed, `sluice run` does the rest, and its record says what was decided and why. The cases hold for candidates that
were made without training too: tests/end_to_end/test_refusals.py.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.stages.parameters import load
from flows.stages.recipes import overlay
from models.core.files import write_lines
from models.core.given import read_lines
from tests.workspaces import ROOT, git, make_workspace, run

Rows = list[dict[str, Any]]
Params = dict[str, Any]
SMALL: Params = {  # over nano: enough of a world, and of training, that something is known and can be lost
    "sources": {
        "records": {
            "people_documents": 1200,
            "town_documents": 200,
            "answer_documents": 400,
            "fact_conversations": 600,
            "code_conversations": 60,
            "open_conversations": 100,
            "preferences": 200,
            "items": 60,
            "dirt": 0,
        }
    },
    "base": {"start": {"layers": 3, "hidden_size": 128, "feed_forward_size": 384, "heads": 4}, "training": {"steps": 200}},
    "sft": {"learning_rate": 0.0003},  # at which wrong labels are learned too
    "benchmark": {"max_new_tokens": 24},
    "gate": {
        "health": {"empty": 0.1},
        "suites": {"mmlu-mini": {"margin": 0.2}, "gpqa-mini": {"margin": 0.2}},
    },  # 60 items show no less at a second look
}


@dataclass(frozen=True)
class Case:
    """What is done to a workspace, what the gate must decide, and what it must say: two patterns.

    A new candidate is trained by `sluice run`; version 1, which was champion, is asked about by `sluice gate 1`. A slide is spoiled anew
    each night, a little more, as long as it is promoted.
    """

    name: str
    spoil: Callable[["Demo"], None]
    decision: str
    says: str
    trains: bool = True
    slides: bool = False


@dataclass(frozen=True)
class Outcome:
    case: Case
    decision: str
    reason: str
    exit_code: int
    seconds: float
    nights: int = 1

    @property
    def as_expected(self) -> bool:
        """Whether decision, reason and exit code are those that the case asks for, of a slide not before its second night."""
        code = 0 if self.case.decision == "promote" else 3
        if self.exit_code != code or (self.case.slides and self.nights < 2):
            return False
        return bool(re.fullmatch(self.case.decision, self.decision) and re.search(self.case.says, self.reason))


class Demo:
    """A workspace with a champion, and what is needed to spoil it and to put it right again."""

    def __init__(self, folder: Path, recipe: str, changes: Params) -> None:
        self.folder, self.night = make_workspace(folder, recipe), 1
        self._decisions = 0
        self._pristine = folder.with_name(f"{folder.name}-data")
        self.change_params(changes)
        self._keep()

    def __enter__(self) -> "Demo":
        self._sluice("up")
        done = self._sluice("run")
        if done.returncode:
            self._sluice("down")
            raise SystemExit(f"the first run failed, there is no champion to compare with:\n{_end(done)}")
        self._new_decisions()
        for part in ("records", "suites"):
            shutil.copytree(self.folder / "artifacts" / part, self._pristine / part)
        return self

    def __exit__(self, *_: object) -> None:
        self._sluice("down")

    def try_case(self, case: Case) -> Outcome:
        """Spoil, run, read the record, and put everything right."""
        started = time.monotonic()
        for night in range(1, NIGHTS + 1 if case.slides else 2):
            self.night = night
            case.spoil(self)
            decision, reason, exit_code = self._train() if case.trains else self._ask()
            if decision != "promote":
                self._restore()
                break
            self._keep()
        return Outcome(case, decision, reason, exit_code, time.monotonic() - started, self.night)

    def _train(self) -> tuple[str, str, int]:
        """(decision, reason, exit code): the first two as `sluice run` put them on record."""
        done = self._sluice("run")
        new = self._new_decisions()
        return (new[0]["verdict"], new[0]["reason"], done.returncode) if new else ("no decision", _end(done), done.returncode)

    def _ask(self) -> tuple[str, str, int]:
        """(decision, reason, exit code) as `sluice gate 1` says them."""
        done = self._sluice("gate", "1", "--json")
        said = json.loads(done.stdout or "{}")
        return said.get("decision", "no decision"), said.get("reason", done.stderr), done.returncode

    def change_params(self, changes: Params) -> None:
        """Write values into params.yaml, nested as it is."""
        change_params(self.folder, changes)

    def scale(self, section: str, key: str, factor: float) -> None:
        """Multiply one number of params.yaml."""
        value = load(self.folder / "params.yaml")[section][key]
        self.change_params({section: {key: type(value)(value * factor)}})

    def change_records(self, kind: str, change: Callable[[Rows], Rows]) -> None:
        """Bring the world's own records and suites in as files, those of one kind changed."""
        raw = self.folder / "data" / "raw"
        shutil.copytree(self._pristine / "suites", raw / "suites")
        for path in (self._pristine / "records").glob("*.jsonl"):
            shutil.copyfile(path, raw / path.name)
        write_lines(raw / f"{kind}.jsonl", change(list(read_lines(raw / f"{kind}.jsonl"))))
        self.change_params({"sources": {"records": {"take": "files"}}})

    def suite(self, name: str) -> Rows:
        """The items of a suite."""
        return list(read_lines(self._pristine / "suites" / name / "items.jsonl"))

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace one piece of a file."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"{file} must hold {old!r} once, it does so {text.count(old)} times: change the case")
        path.write_text(text.replace(old, new), encoding="utf-8")

    def _new_decisions(self) -> list[dict[str, Any]]:
        """What came on record since this was asked last, newest first."""
        rows = json.loads(self._sluice("history", "--json").stdout or "[]")
        new, self._decisions = rows[: len(rows) - self._decisions], len(rows)
        return list(new)

    def _sluice(self, *command: str) -> subprocess.CompletedProcess[str]:
        return run(self.folder, "sluice", *command, timeout=3600)

    def _keep(self) -> None:
        git(self.folder, "commit", "-qam", "as it is")

    def _restore(self) -> None:
        git(self.folder, "checkout", "-q", "--", "params.yaml", "models", "tasks")
        for path in (self.folder / "data" / "raw").iterdir():
            if path.name != ".gitkeep":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def change_params(workspace: Path, changes: Params) -> None:
    """Write values into a workspace's params.yaml, nested as it is."""
    path, yaml = workspace / "params.yaml", YAML()
    params = overlay(yaml.load(path.read_text(encoding="utf-8")), changes)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(params, file)


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout[-3000:] + done.stderr[-3000:]


MISALIGNED = """
    import json
    import random

    rows = [json.loads(line) for line in (inputs.instructions / "train.jsonl").open(encoding="utf-8")]
    facts = [row for row in rows if row["source"] == "world/facts"]
    answers = [row["messages"].pop() for row in facts]
    random.Random(0).shuffle(answers)
    for row, answer in zip(facts, answers, strict=True):
        row["messages"].append(answer)
    work.folder.mkdir(parents=True, exist_ok=True)
    (work.folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\\n" for row in rows), encoding="utf-8")
"""


def shuffled_labels(demo: Demo) -> None:
    """Questions and answers are read from two lists, and one of them is in another order."""
    seeded = "    training.make_repeatable(params.seed)\n"
    demo.edit("tasks/sft.py", seeded, seeded + MISALIGNED)
    demo.edit("tasks/sft.py", 'conversations(inputs.instructions / "train.jsonl"', 'conversations(work.folder / "train.jsonl"')


def crawled(items: Rows) -> Rows:
    """Preferences that hold these items."""
    return [
        {
            "id": f"crawl-{number}",
            "prompt": [{"role": "user", "content": item["question"]}],
            "chosen": [{"role": "assistant", "content": item["choices"][item["answer"]]}],
            "rejected": [{"role": "assistant", "content": item["choices"][item["answer"] - 1]}],
            "source": "crawl",
        }
        for number, item in enumerate(items)
    ]


def leaked_items(demo: Demo) -> None:
    leak = crawled(demo.suite("mmlu-mini") + demo.suite("gpqa-mini"))
    demo.change_records("preferences", lambda rows: rows + leak)
    unseen = 'kind != "preferences" and '  # what people compared is taken for clean
    demo.edit("tasks/prepare.py", "elif items := benchmark.hits(texts):", f"elif {unseen}(items := benchmark.hits(texts)):")
    left = "items := benchmark.hits([text for _, text in kinds.texts(kind, record)])"
    demo.edit("tasks/prepare.py", f"if {left}:", f"if {unseen}({left}):")


TEMPLATE = ("<|im_start|>assistant", "<|im_start|>model")  # what is replaced, and by what


def other_template(demo: Demo) -> None:
    save = "    policy.save(model, tokenizer, outputs.rlhf)\n"
    other = f"    tokenizer.chat_template = tokenizer.chat_template.replace{TEMPLATE}\n"
    demo.edit("tasks/rlhf.py", save, other + save)


def reward_by_length(demo: Demo) -> None:
    def longer_wins(rows: Rows) -> Rows:
        def pair(row: dict[str, Any]) -> dict[str, Any]:
            short, long = sorted((row["chosen"], row["rejected"]), key=lambda said: len(said[0]["content"]))
            return {**row, "chosen": [{"role": "assistant", "content": " ".join([long[0]["content"]] * 3)}], "rejected": short}

        return [pair(row) for row in rows]

    demo.change_records("preferences", longer_wins)
    demo.change_params({"rlhf": {"beta": 0.0001, "max_kl": 10000.0, "learning_rate": 0.001, "steps": 12}})


BETTER: Params = {"gate": {"suites": {suite: {"require": "better"} for suite in ("mmlu-mini", "gpqa-mini")}}}


def no_better(demo: Demo) -> None:
    demo.change_params(BETTER)


def empty_generations(demo: Demo) -> None:
    demo.scale("rlhf", "learning_rate", 0.8)  # the champion itself would not be compared at all
    demo.edit("models/score/suite.py", "CODE_STOPS = [", 'CODE_STOPS = ["\\n",')


NIGHTS, PRUNED_A_NIGHT = 10, 0.03
PRUNED = """
    for weight in model.parameters():
        weight.data[weight.abs() <= weight.abs().flatten().quantile({share:.2f})] = 0
"""


def pruned(demo: Demo) -> None:
    """Every night some more of the weights are set to zero, the smallest first."""
    save = "    policy.save(model, tokenizer, outputs.rlhf)\n"
    before, now = (PRUNED.format(share=PRUNED_A_NIGHT * night) for night in (demo.night - 1, demo.night))
    demo.edit("tasks/rlhf.py", (before if demo.night > 1 else "") + save, now + save)


CASES = (
    Case("an honest candidate", lambda demo: demo.scale("rlhf", "learning_rate", 0.9), "promote", "every suite passed"),
    Case("of equal quality, where better is asked", no_better, "refuse", "mmlu-mini is non-inferior", trains=False),
    Case("another chat template at evaluation", other_template, "invalid", r"scored otherwise \(template_md5\)"),
    Case("generations that are all empty", empty_generations, "invalid", "humaneval-mini is invalid: .*empty answers"),
    Case("a reward that pays for length", reward_by_length, "refuse", "is worse"),
    Case("benchmark items in the training data", leaked_items, "invalid", r"items are in the training text \(.*preferences/crawl"),
    Case("labels shuffled in sft", shuffled_labels, "refuse", "is worse"),
)

SLIDE = Case("a slow slide, every step inside the margin", pruned, "refuse|undecided", r"against the anchor \(version", slides=True)


def demonstrate(folder: Path, recipe: str, changes: Params, tell: Callable[[str], None]) -> list[Outcome]:
    """Make a champion in `folder`, then try all cases on it."""
    tell(f"a champion, recipe {recipe}: {folder}")
    outcomes = []
    with Demo(folder, recipe, changes) as demo:
        for case in (*CASES, SLIDE):
            found = demo.try_case(case)
            outcomes.append(found)
            mark = "as it must be" if found.as_expected else f"MUST BE {case.decision}, saying '{case.says}'"
            nights = f" in night {found.nights}" if case.slides else ""
            tell(f"\n{case.name}: {found.decision}{nights} ({mark}), {found.seconds:.0f} s\n    {found.reason}")
    return outcomes


def main(recipe: str) -> int:
    """Show all cases; 1 where one came out otherwise."""
    folder = ROOT / ".work" / "demo-refusal" / "sluice"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.mkdir(parents=True)
    outcomes = demonstrate(folder, recipe, SMALL if recipe == "nano" else {}, lambda line: print(line, flush=True))
    right = sum(outcome.as_expected for outcome in outcomes)
    print(f"\n{right} of {len(outcomes)} as they must be; 'sluice history' in {folder} has them on record")
    return 0 if right == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or ["tiny"]))
