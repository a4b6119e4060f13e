"""The pipeline as DVC sees it: the one door to DVC. dvc.yaml is read here and nowhere else."""

import contextlib
import hashlib
import importlib
import inspect
import io
import json
import logging
import os
import re
import time
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from flows.host import failures, git
from flows.host.workspace import Workspace
from flows.stages import listing
from flows.stages.changes import Change, changes_of
from models.core.errors import SluiceError, Unavailable, UserError
from models.core.given import require_file
from models.core.records import Record
from tasks.stage import Inputs, Metrics, Outputs, Params

PATIENCE = 30  # tenths of a second
CHECKPOINT_MINUTES = 5.0  # between two of a training, unless its meta says otherwise
ARTIFACT_ROOTS = ("artifacts", "data")


@dataclass(frozen=True)
class Contract:
    """What a stage function's annotations promise."""

    function: Callable[..., Metrics]
    params: type[Params]
    inputs: type[Inputs]
    outputs: type[Outputs]
    wants_work: bool


def contract(stage: "Stage") -> Contract:
    """The contract of a stage: that of the function `task` of the module `tasks.TASK`, whose import loads nothing heavy."""
    try:
        return task_contract(stage.task)
    except (ModuleNotFoundError, AttributeError) as error:
        named = "" if stage.task == stage.section else ", as its command says"
        raise UserError(
            f"stage {stage.name!r}: no function {stage.task}() in tasks/{stage.task}.py{named}, which dvc.yaml needs ({error}); "
            "a stage of another name says task=NAME in its command"
        ) from None


def task_contract(task: str) -> Contract:
    """The contract of a task."""
    function = getattr(importlib.import_module(f"tasks.{task}"), task)
    hints = typing.get_type_hints(function)
    return Contract(function, hints["params"], hints["inputs"], hints["outputs"], "work" in inspect.signature(function).parameters)


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, matrix resolved. Paths are relative to the workspace, with forward slashes."""

    name: str
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    metrics_file: str
    sections: tuple[str, ...]
    pool: str
    timeout_s: float
    retries: int
    upstream: tuple[str, ...]
    given: Mapping[str, str] = field(default_factory=dict)
    plots: tuple[str, ...] = ()
    checkpoint_minutes: float = CHECKPOINT_MINUTES
    ranks: int = 1

    @property
    def task(self) -> str:
        """The function in tasks/ that does its work: what the command says as task=NAME, else the stage's own name."""
        return self.given.get("task", self.section)

    @property
    def section(self) -> str:
        """The stage's own section of params.yaml."""
        return self.name.partition("@")[0]

    def bind(self, record: type[Record], paths: Sequence[str]) -> dict[str, str]:
        """Map each field to its path: the one that the command gives, else the path whose last part is the field's name.

        A field that need not be given may have none. Raises UserError where another has none.
        """
        named = {PurePosixPath(path).stem.replace("-", "_"): path for path in paths if path not in self.given.values()}
        bound = {field: path for field in record.model_fields if (path := self.given.get(field) or named.get(field))}
        missing = [field for field, info in record.model_fields.items() if info.is_required() and field not in bound]
        if missing:
            raise UserError(
                f"dvc.yaml: stage {self.name!r} has no path for {', '.join(missing)}: one must end in that name, or cmd must say NAME=PATH"
            )
        return bound

    @property
    def curve_file(self) -> str:
        """Where dvc.yaml wants the stage's steps as a plot: one that is no output of the stage's function; "" for nowhere."""
        return next((path for path in self.plots if path not in self.given.values()), "")

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The deps that are data, not code."""
        return tuple(dep for dep in self.deps if PurePosixPath(dep).parts[0] in ARTIFACT_ROOTS)


CELL = ("model", "suite", "items")  # what the command of a stage that scores a model gives, in this order
ASKED = ("model", "answers")  # the same of a stage that asks a model the questions, for people to read
LEAKS = "contamination"  # the artifact that lists, by suite, the items that stand in training text


@dataclass(frozen=True)
class Cell:
    """A stage that scores one model on one suite, and the paths of the model, the suite and the items that it writes."""

    stage: Stage
    model_path: str
    suite_path: str
    items_path: str

    @property
    def model(self) -> str:
        """The model's name: the last part of its path."""
        return PurePosixPath(self.model_path).name

    @property
    def suite(self) -> str:
        """The suite's name."""
        return PurePosixPath(self.suite_path).name


def cells(stages: Iterable[Stage]) -> list[Cell]:
    """Those of the stages that score a model on a suite: their commands give both."""
    return [Cell(stage, *(stage.given[field] for field in CELL)) for stage in stages if stage.given.keys() >= set(CELL)]


@dataclass(frozen=True)
class Tracked:
    """Data that a .dvc file names, the md5 that it must have, and the one that it has; None where it is not here."""

    pointer: str
    md5: str | None
    here: str | None


class Pipeline:
    """dvc.yaml with its lock: the stages in the order in which they can run."""

    def __init__(self, workspace: Workspace) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        self.workspace = workspace
        for name in ("dvc.yaml", "dvc.lock", ".dvc/config"):
            _require_plain(workspace.root / name)
        try:
            self.repo = Repo(str(workspace.root))
        except DvcException as error:
            if not (workspace.root / ".git").exists():
                raise UserError(f"{workspace.root} is no git repository, and DVC wants one: work in a clone, or 'git init' here") from None
            raise UserError(f"{workspace.root}: DVC cannot open the workspace ({failures.one_line(error)})") from None

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Every stage by name, upstream before downstream, otherwise in the order of dvc.yaml."""
        from graphlib import TopologicalSorter

        with _translated():
            index = self._patiently(lambda: self.repo.index)
            graph = index.graph
            nodes = {self._name(node): node for node in index.stages if getattr(node, "name", None)}
            above = {name: [self._name(up) for up in graph.successors(node) if getattr(up, "name", None)] for name, node in nodes.items()}
        if not nodes:
            raise UserError("dvc.yaml holds no stage: 'git checkout dvc.yaml' brings ours back")
        order = TopologicalSorter(above).static_order()
        return {name: self._stage(name, nodes[name], tuple(sorted(above[name]))) for name in order}

    def _name(self, node: Any) -> str:
        """What DVC calls a stage in the workspace, whatever the current folder."""
        file = os.path.relpath(node.path, self.repo.root_dir)
        return str(node.name) if file == "dvc.yaml" else f"{file}:{node.name}"

    def _stage(self, name: str, node: Any, upstream: tuple[str, ...]) -> Stage:
        meta = node.meta or {}
        sections = [section for dep in node.params for section in dep.params]
        return Stage(
            name=name,
            command=node.cmd,
            deps=tuple(sorted(dep.def_path for dep in node.deps if dep not in node.params)),
            outs=tuple(out.def_path for out in node.outs if not (out.metric or out.plot)),
            metrics_file=next(out.def_path for out in node.outs if out.metric),
            sections=tuple(sections),
            pool=meta.get("pool", "cpu"),
            timeout_s=float(meta.get("timeout_s", 86400)),
            checkpoint_minutes=float(meta.get("checkpoint_minutes", CHECKPOINT_MINUTES)),
            retries=int(meta.get("retries", 0)),
            ranks=int(meta.get("ranks", 1)),
            upstream=upstream,
            given=bindings(str(node.cmd).split()),
            plots=tuple(out.def_path for out in node.outs if out.plot),
        )

    def stage(self, name: str) -> Stage:
        """The stage of that name. Raises UserError with the nearest names."""
        if name not in self.stages:
            raise UserError(f"no stage {name!r} in dvc.yaml; there are: {', '.join(self.stages)}")
        return self.stages[name]

    @cached_property
    def cells(self) -> list[Cell]:
        """The stages that score a model on a suite."""
        return cells(self.stages.values())

    @cached_property
    def answers(self) -> dict[str, Stage]:
        """By model, the stage that has it answer the questions."""
        return {PurePosixPath(stage.given["model"]).name: stage for stage in self.stages.values() if stage.given.keys() >= set(ASKED)}

    def maker(self, artifact: str) -> Stage | None:
        """The stage that makes artifacts/NAME, or None."""
        path = f"artifacts/{artifact}"
        return next((stage for stage in self.stages.values() if path in stage.outs), None)

    def needed(self, params: Mapping[str, Any]) -> set[str]:
        """The stages that the candidate and the scores of the models need, with all upstream; the others are nobody's."""
        return set(self._wanted(params)) | self._above(self._wanted(params))

    def targets(self, params: Mapping[str, Any]) -> list[str]:
        """What `dvc repro` is to be given, to run what is needed and no more: names of stages, a matrix's for all of its cells."""
        wanted = self._wanted(params)
        above = self._above(wanted)
        return list(dict.fromkeys(self.stages[name].section for name in wanted if name not in above))

    def _wanted(self, params: Mapping[str, Any]) -> list[str]:
        """The stages that make what a run is for: scores, answers to read, the candidate, the list of leaked items."""
        makers = [stage.name for name in (params["candidate"], LEAKS) if (stage := self.maker(name))]
        return [*(cell.stage.name for cell in self.cells), *(stage.name for stage in self.answers.values()), *makers]

    def _above(self, names: Iterable[str]) -> set[str]:
        """All stages upstream of these."""
        waiting, found = [up for name in names for up in self.stages[name].upstream], set[str]()
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.stages[name].upstream
        return found

    def changes(self) -> dict[str, list[str]]:
        """Why each changed stage must run; a stage downstream of a changed one is listed as "upstream: NAME"."""
        why = {name: [change.text for change in found] for name, found in self.changed().items()}
        for name, stage in self.stages.items():
            upstream = [f"upstream: {up}" for up in stage.upstream if up in why]
            if upstream:
                why.setdefault(name, []).extend(upstream)
        return {name: why[name] for name in self.stages if name in why}

    def changed(self) -> dict[str, list[Change]]:
        """What DVC finds changed in each stage itself; one that never ran has that for its only change."""
        self._require_plain_data()
        with _translated():
            status = self._patiently(self.repo.status)
        recorded = self.recorded()
        return {
            name: list(changes_of(entries)) if name in recorded else [Change("not in dvc.lock: it never ran")]
            for name, entries in status.items()
            if name in self.stages
        }

    def entries(self, names: Collection[str]) -> dict[str, dict[str, Any]]:
        """The entries of these stages in dvc.lock, were they made of what is here today; their outs are those on record."""
        from dvc.stage.serialize import to_single_stage_lockfile

        with _translated():
            return {name: dict(to_single_stage_lockfile(node)) for name, node in self._with_deps(names).items()}

    def relock(self, names: Collection[str]) -> None:
        """Write those entries into dvc.lock, at once. Nothing runs, no output is looked at: the caller knows them for those on record."""
        logging.getLogger("dvc").setLevel(logging.WARNING)  # it tells of each file that it writes
        with _translated(), self.repo.lock:
            files = dict[str, list[Any]]()
            for node in self._with_deps(names).values():
                files.setdefault(node.path, []).append(node)
            for nodes in files.values():
                nodes[0].dvcfile.dump_stages(nodes, update_pipeline=False)

    def _with_deps(self, names: Collection[str]) -> dict[str, Any]:
        """DVC's own stages of these names, read anew, with the content of their deps as it is today."""
        from dvc.repo.index import Index

        self._require_plain_data()
        read = self._patiently(lambda: Index.from_repo(self.repo).stages)
        nodes = {self._name(node): node for node in read if getattr(node, "name", None)}
        for name in names:
            nodes[name].save_deps()
        return {name: nodes[name] for name in names}

    def tracked(self, places: Sequence[Path]) -> list[Tracked]:
        """What .dvc files track of these places: each itself, a folder that it is in, or a file in it."""
        self._require_plain_data()
        with _translated():
            nodes = self._patiently(lambda: [node for node in self.repo.index.stages if node.is_data_source])
            return [
                Tracked(node.relpath, out.hash_info.value, out.get_hash().value if out.exists else None)
                for node in nodes
                for out in node.outs
                if any(Path(out.fs_path).is_relative_to(place) or place.is_relative_to(out.fs_path) for place in places)
            ]

    def _require_plain_data(self) -> None:
        """Raise UserError for what DVC would wait for, or read without end, in data/raw: a pipe, a device, a link to nothing."""
        for path in sorted((self.workspace.root / "data" / "raw").rglob("*")):
            if not os.path.isdir(path):
                require_file(path)

    def cached_files(self, md5: str) -> dict[str, Path]:
        """The files of a tracked folder as DVC's cache holds them, by relative path. Raises StageError where it does not."""
        return listing.files(Path(self.repo.cache.local.path), md5)

    def _patiently(self, read: Callable[[], Any]) -> Any:
        """`read()`, repeated while it meets what passes: a dvc.lock that a sibling's DVC is rewriting in place, or a lock of DVC's that a
        process holds which was killed a moment ago and is not buried yet; a table of its commands of which one left half is dropped."""
        from dvc.lock import LockError
        from dvc.rwlock import RWLockFileCorruptedError, RWLockFileFormatError
        from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError

        for _ in range(PATIENCE):
            try:
                return read()
            except (LockError, YAMLSyntaxError, YAMLValidationError):
                time.sleep(0.1)
                self.repo._reset()
            except (RWLockFileCorruptedError, RWLockFileFormatError):
                mend_table(self.workspace.root)
        return read()

    def recorded(self) -> dict[str, dict[str, Any]]:
        """The entries of dvc.lock by stage."""
        from ruamel.yaml import YAML

        lock = self.workspace.root / "dvc.lock"
        entries = YAML(typ="safe").load(lock.read_text(encoding="utf-8")) if lock.is_file() else None
        return (entries or {}).get("stages") or {}

    def lock_of(self, params: Mapping[str, Any]) -> bytes | None:
        """dvc.lock without the entries of stages that are left out, or no longer in dvc.yaml: DVC keeps them. None without one."""
        from ruamel.yaml import YAML

        path, needed, stream = self.workspace.root / "dvc.lock", self.needed(params), io.BytesIO()
        if needed.issuperset(self.recorded()):
            return path.read_bytes() if path.is_file() else None
        lock = YAML().load(path.read_text(encoding="utf-8"))
        lock["stages"] = {name: entry for name, entry in lock["stages"].items() if name in needed}
        YAML().dump(lock, stream)
        return stream.getvalue()

    def recorded_signatures(self) -> dict[str, str]:
        """The signature of the execution that dvc.lock records, by stage."""
        return {name: signature(entry) for name, entry in self.recorded().items()}


def bindings(words: Iterable[str]) -> dict[str, str]:
    """What the words of a stage's command give: {"model": "artifacts/base"} of "sluice stage benchmark@x model=artifacts/base"."""
    return dict(word.split("=", 1) for word in words if re.match(r"[A-Za-z_]\w*=", word))


def _require_plain(path: Path) -> None:
    """Raise UserError where something else than a file that can be read stands at a path; nothing may."""
    if os.path.lexists(path):
        try:
            path.open("rb").close()
        except OSError as error:
            raise failures.of_system(error) from None


def git_commit(root: Path) -> str:
    """The checked-out commit, "-dirty" after it where it does not hold the code and the deps as they are; "" outside git."""
    return git.commit(root, declared_deps(root))


def declared_deps(root: Path) -> set[str]:
    """The deps that dvc.yaml names, as they stand there and without opening DVC; those that a template makes are left out."""
    return {dep for entry in _entries(root).values() for dep in entry.get("deps", []) if isinstance(dep, str) and "$" not in dep}


def scoring_sections(root: Path) -> set[str]:
    """The sections of params.yaml of the stages that score a model on a suite, whether params.yaml names any of either or not."""
    return {name for name, entry in _entries(root).items() if bindings(str(entry.get("cmd")).split()).keys() >= set(CELL)}


def _entries(root: Path) -> dict[str, Any]:
    """The stages as dvc.yaml has them, templates as they stand."""
    from ruamel.yaml import YAML

    path = root / "dvc.yaml"
    return (YAML(typ="safe").load(path.read_text(encoding="utf-8")) or {}).get("stages", {}) if path.is_file() else {}


def signature(entry: Mapping[str, Any]) -> str:
    """The md5 of what determines a run in an entry of dvc.lock: cmd, deps by content, params."""
    deps = {dep["path"]: dep.get("md5") for dep in entry.get("deps", [])}
    identity = {"cmd": entry["cmd"], "deps": deps, "params": entry.get("params", {})}
    return hashlib.md5(json.dumps(identity, sort_keys=True, default=str).encode(), usedforsecurity=False).hexdigest()


def data_of(entry: Mapping[str, Any], stage: Stage) -> dict[str, str]:
    """The md5 of each artifact that a stage reads, by an entry of dvc.lock."""
    return {dep["path"]: str(dep.get("md5", "")) for dep in entry.get("deps", []) if dep["path"] in stage.artifacts}


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn DVC's own errors into ours, in one line."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError

    try:
        yield
    except SluiceError:
        raise
    except LockError:
        raise Unavailable("another DVC command holds this workspace: wait for it to end, then run again") from None
    except (YAMLSyntaxError, YAMLValidationError) as error:
        raise UserError(f"dvc.yaml or dvc.lock is not valid: {' '.join(str(error).split())}; mend it, or 'git checkout' it") from None
    except DvcException as error:
        raise failures.of_dvc(error) from None


def mend_table(root: Path) -> None:
    """Drop DVC's table of running commands where it cannot be read: rewritten in place, by readers too, it is cut off when one is killed.

    Whoever reads or writes it holds a lock: what is cut off then is nobody's who lives.
    """
    from dvc.lock import LockError, make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    folder = root / ".dvc" / "tmp"
    if _is_table(folder / RWLOCK_FILE):
        return
    with contextlib.suppress(LockError), make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder)):
        if not _is_table(folder / RWLOCK_FILE):
            (folder / RWLOCK_FILE).unlink()


def _is_table(path: Path) -> bool:
    """Whether DVC can read that; as it can where nothing is."""
    from dvc.rwlock import SCHEMA, Invalid

    try:
        SCHEMA(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return True
    except (ValueError, Invalid):
        return False
    return True


def read_metrics(root: Path, stage: Stage) -> dict[str, Any]:
    """What the stage measured last; empty where it has not run."""
    path = root / stage.metrics_file
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def reproduce(stage: str) -> int:
    """What `dvc --wait-for-lock repro --single-item STAGE` does, in this process; return its exit code."""
    mend_table(Path.cwd())
    return listing.run_dvc(["--wait-for-lock", "repro", "--single-item", stage])
