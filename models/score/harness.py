"""Tasks of lm-eval's, as their users have them: a task file in the suite's folder, or one of the installed package by its name.

Where a task would fetch its data, files in the suite's folder stand for the splits: those that suite.yaml or the task's own `data_files`
name, else those that are named as the splits are (test.jsonl, train.parquet). They are held in memory; nothing is fetched, and nothing
cached. A task's Python (`!function`) is run: who brings a task trusts it.
"""

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
from datasets import Dataset, DatasetDict
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import apply_template

from models.core.errors import SluiceError, UserError
from models.core.files import write_lines
from models.core.sets import OfSet
from models.score import items as kinds
from models.score import suite as suites
from models.score.items import NO_SUBJECT, Foreign, Item
from models.score.suite import HarnessSuite, Table
from models.score.tables import READERS, rows

SHOTS_SEED = 1234  # lm-eval's own
IDS = ("id", "ID", "idx", "question_id", "doc_id", "task_id", "key", "ind", "qid", "uid")
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
BUILDERS = ("json", "csv", "parquet", "text", "pandas")


def load(folder: Path, described: HarnessSuite) -> ConfigurableTask:
    """The task, its data in memory. Raises UserError where there is none, it is a group, or its data are not there or do not fit it."""
    where = f"{folder / described.lm_eval}" if (folder / described.lm_eval).is_file() else f"lm-eval's task {described.lm_eval}"
    path = _path(folder, described)
    try:
        with quiet():
            return _task(folder, described, load_yaml(path), where)
    except SluiceError:
        raise
    except ImportError as error:
        raise UserError(
            f"{where} needs the package {error.name or error}, which is not installed: 'pip install' it, or take another task"
        ) from None
    except Exception as error:  # of a task's own code and templates, whatever they raise
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{where} cannot be loaded ({type(error).__name__}: {said}): the task must fit its data; mend either") from None


def _path(folder: Path, described: HarnessSuite) -> Path:
    """The task's file."""
    name = described.lm_eval
    if name.endswith((".yaml", ".yml")):
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            raise UserError(f"{path} is missing: lm_eval must name a task file in the suite's folder, or a task of the installed package")
        return path
    line = re.compile(rb"^task:[ \t]*[\"']?%s[\"']?[ \t]*(?:#.*)?\r?$" % re.escape(name.encode()), re.MULTILINE)
    found = [path for path in sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")) if line.search(path.read_bytes())]
    if not found:  # lm-eval's own index would parse all of its files, which takes ten seconds
        raise UserError(
            f"{folder}: the installed lm-eval has no task {name!r} that is a file; 'lm-eval ls tasks' lists them; or put the file here"
        )
    return found[0]


def _task(folder: Path, described: HarnessSuite, config: dict[str, Any], where: str) -> ConfigurableTask:
    if isinstance(config.get("task"), list) or "group" in config:
        raise UserError(f"{where} is a group of tasks: a suite is one task; name one of them")
    if "class" in config:
        raise UserError(f"{where} is a class of its own: a suite must be a task that its file describes")
    _must_be_greedy(config, where)
    for key in ("tag", "group", "task_list"):
        config.pop(key, None)
    config["metadata"] = {**(config["metadata"] if isinstance(config.get("metadata"), dict) else {})}
    if described.shots is not None:
        config["num_fewshot"] = described.shots
    if not callable(config.get("custom_dataset")):
        data = DatasetDict(_splits(folder, described, config))
        config |= {key: None for key in SPLITS if config.get(key) not in data}  # what is neither scored nor shown need not be here
        config |= {"custom_dataset": lambda **_: data, "dataset_path": None, "dataset_name": None, "dataset_kwargs": None}
    task = ConfigurableTask(config={**config, "task": folder.name})
    task.set_fewshot_seed(SHOTS_SEED)
    return task


def _must_be_greedy(config: Mapping[str, Any], where: str) -> None:
    how = config.get("generation_kwargs") or {}
    if config.get("repeats", 1) != 1 or how.get("do_sample") or float(how.get("temperature") or 0) > 0:
        raise UserError(f"{where} asks for several or for sampled answers: a suite's answers are greedy, one an item; change the task")


def _splits(folder: Path, described: HarnessSuite, config: Mapping[str, Any]) -> Iterator[tuple[str, Dataset]]:
    """The splits that the task names, from the files that stand for them."""
    wanted = list(dict.fromkeys(str(config[key]) for key in SPLITS if config.get(key)))
    given = {**_own_files(folder, config), **described.data}
    scored = config.get("test_split") or config.get("validation_split")
    for split in wanted:
        names = given.get(split) or _named_as(folder, split)
        if names is None and split != scored and not (split == config.get("fewshot_split") and config.get("num_fewshot")):
            continue
        if names is None:
            raise UserError(f"{folder}: no file stands for split {split!r}: put {split}.jsonl there, or name it, 'data: {{{split}: FILE}}'")
        found = [row for name in ([names] if isinstance(names, str) else names) for _, _, row in rows(folder, Table(file=name))]
        if not found:
            raise UserError(f"{folder}: split {split!r} holds no row: it must have at least one")
        yield split, Dataset.from_list(found)


def _own_files(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The files that the task itself names, where it reads local ones; looked for in the suite's folder, by path or by name alone."""
    if config.get("dataset_path") not in BUILDERS:
        return {}
    files = (config.get("dataset_kwargs") or {}).get("data_files") or {}
    by_split = files if isinstance(files, dict) else {"train": files}
    return {split: [_here(folder, name) for name in ([names] if isinstance(names, str) else names)] for split, names in by_split.items()}


def _here(folder: Path, name: str) -> str:
    inside = not Path(name).is_absolute() and ".." not in Path(name).parts and (folder / name).exists()
    return name if inside else Path(name).name


def _named_as(folder: Path, split: str) -> str | None:
    found = [
        f"{split}{suffix}{packed}"
        for suffix in READERS
        for packed in ("", ".gz", ".zst")
        if (folder / f"{split}{suffix}{packed}").is_file()
    ]
    if len(found) > 1:
        raise UserError(
            f"{folder} holds {', '.join(found)}: one file stands for split {split!r}; remove the others, or name it under 'data'"
        )
    return found[0] if found else None


def read(folder: Path) -> list[Item]:
    """All items of a suite, whichever it is; those of a task are made, not looked up. Raises UserError, as items.read does."""
    described = suites.load(folder)
    if isinstance(described, HarnessSuite):
        return kinds.complete(list(items(folder, described, load(folder, described))), folder)
    return kinds.read(folder)


def write_listing(folder: Path, found: Sequence[Item]) -> None:
    """List the items of a task beside it, so that what reads them needs no lm-eval; nothing for another suite."""
    if isinstance(suites.load(folder), HarnessSuite):
        write_lines(folder / kinds.LISTING, (item.model_dump() for item in found))


def items(folder: Path, described: HarnessSuite, task: ConfigurableTask) -> Iterator[Foreign]:
    """The task's items: what they are called, and the texts by which they would be known in training text."""
    docs = list(task.eval_docs)
    key = described.fields.get("id") or _id_key(docs)
    for number, doc in enumerate(docs, 1):
        subject = doc.get(described.fields["subject"]) if "subject" in described.fields else None
        name = str(doc[key]) if key else str(number)
        try:
            texts, chance = _texts(task, doc), _chance(task, doc)
        except Exception as error:  # of a template, or of the task's own code
            said = " ".join(str(error).split())[:100]
            raise UserError(
                f"{folder}, item {name}: the task cannot ask it ({type(error).__name__}: {said}): mend the row or the task"
            ) from None
        yield Foreign(id=name, subject=str(subject or NO_SUBJECT), texts=texts, chance=chance)


def _id_key(docs: Sequence[Mapping[str, Any]]) -> str | None:
    """The first of the usual keys under which every item has a name of its own."""
    for key in IDS:
        names = {str(doc[key]) for doc in docs if doc.get(key) not in (None, "")}
        if len(names) == len(docs):
            return key
    return None


def _texts(task: ConfigurableTask, doc: Mapping[str, Any]) -> tuple[str, ...]:
    asked, target = task.doc_to_text(doc), task.doc_to_target(doc)
    listed = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else []
    if isinstance(asked, int):  # several prompts go on with one text: the choices are the prompts
        return tuple(f"{choice} {target}" for choice in listed)
    query = _query(task, doc)
    right = [
        str(listed[one]) if isinstance(one, int) and listed else str(one) for one in (target if isinstance(target, list) else [target])
    ]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return tuple(right)
    bare = str(query if isinstance(query, str) and query else asked)
    return tuple(dict.fromkeys((bare, *(f"{asked} {one}".strip() for one in right))))


def _query(task: ConfigurableTask, doc: Mapping[str, Any]) -> Any:
    """What the task says that gives an item away, where it says so: lm-eval's own reading of it takes no plain template."""
    said = task.config.doc_to_decontamination_query if task.config.should_decontaminate else None
    if not isinstance(said, str):
        return said(doc) if callable(said) else None
    return doc[said] if said in task.features else apply_template(said, doc)


def _chance(task: ConfigurableTask, doc: Mapping[str, Any]) -> float:
    """The score of a random answer: one of the choices, a byte in 256, or nothing."""
    if task.OUTPUT_TYPE == "multiple_choice":
        target, count = task.doc_to_target(doc), len(task.doc_to_choice(doc))
        return (len(set(target)) if isinstance(target, list) and not isinstance(task.doc_to_text(doc), int) else 1) / count
    return 1 / 256 if task.OUTPUT_TYPE == "loglikelihood_rolling" else 0.0


def metric(task: ConfigurableTask, described: HarnessSuite, name: str) -> str:
    """Which of the task's metrics makes an item's score: the one that is named, else the first of which more is better.

    Raises UserError where the task has no such metric.
    """
    known = [str(one) for one in task._higher_is_better or task._metric_fn_list]
    if described.metric is not None:
        if described.metric not in known:
            raise UserError(f"suite {name}: metric is {described.metric!r}, must be one that the task computes: {', '.join(known)}")
        return described.metric
    return next((one for one in known if task._higher_is_better.get(one)), known[0])


def of_set(task: ConfigurableTask, described: HarnessSuite, name: str) -> OfSet | None:
    """The metric, where it belongs to the whole set of items: lm-eval's f1 is of class 1."""
    match metric(task, described, name):
        case "f1":
            return OfSet(metric="f1", classes=2, positive=1)
        case "mcc":
            return OfSet(metric="mcc", classes=len(task.doc_to_choice(task.eval_docs[0])))
    return None


def filtered(task: ConfigurableTask, described: HarnessSuite, name: str, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The samples of the suite's filter. Raises UserError where the task has no such filter."""
    known = [one.name for one in task._filters]
    chosen = described.filter or known[0]
    if chosen not in known:
        raise UserError(f"suite {name}: filter is {chosen!r}, must be one of the task's: {', '.join(known)}")
    return [sample for sample in samples if sample["filter"] == chosen]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's bars and notices, which would fill a log file, to itself."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
