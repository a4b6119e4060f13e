"""Whether a registered version is what its record says: fetched, made again from its commit and lock, scored again, trained again.

All of it happens in a git worktree of the recorded commit, with the recorded params.yaml and dvc.lock put in place; the workspace is
not touched.
"""

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path, PurePosixPath
from typing import Any

from flows.host import checkout
from flows.host.masking import masked
from flows.host.processes import stream
from flows.host.workspace import Workspace
from flows.registry import identity
from flows.registry.decisions import Registry
from flows.registry.lineage import Past
from flows.registry.record import Known
from flows.registry.release import candidate_folder
from flows.registry.versions import file_md5
from flows.stages import listing, pretrained
from flows.stages.pipeline import Pipeline
from models.core.content import folder_md5
from models.core.errors import SluiceError, StageError, UserError
from models.core.given import read_lines

SHOWN = 5
PLAIN = re.compile(r"\w[\w@+,:=./-]*", re.ASCII)
RUNNING = "Running stage"  # DVC says so before each
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, whether it held, and what was seen."""

    name: str
    ok: bool
    seen: str


def verify(registry: Registry, version: Any, retrain: bool, score: bool, tell: Tell) -> Iterator[Check]:
    """Yield each check as it is done; tell what is made again. What is stored decides on no command: those are the commit's.

    Raises UserError where the commit is not at hand. A signal leaves no worktree behind, what SIGKILL leaves the next one removes.
    """
    workspace, known = registry.tracker.workspace, registry.registered(version)
    with checkout.scratch(workspace.root) as folder:
        yield Check("record", not known.doubt, f"known by {known.words}" if not known.doubt else known.doubt)
        yield _stored(registry, version, folder)
        try:
            past = Past(registry, version, folder)
            environment = _environment(past)
        except StageError as error:
            yield Check("provenance", False, str(error))
            return  # nothing is made from files that are not the registered ones
        yield Check("provenance", True, f"{', '.join(past.files)} as registered")
        yield environment
        with checkout.checkout(workspace, _commit(version, known), past.files["params.yaml"] or None, apart=True) as copy:
            tree = copy.root
            if "candidate" not in past.params:
                yield Check("candidate", False, "params.yaml, as it was registered, names none: an earlier Sluice registered it")
                return
            if wrong := _not_plain(past.params, (tree / "dvc.yaml").read_text(encoding="utf-8")):
                yield Check("commands", False, wrong)
                return
            if wrong := _outside(past.lock) or listing.fault(checkout.cache_of(copy) / listing.OBJECTS, past.hashes("outs").values()):
                yield Check("paths", False, wrong)
                return
            for file, text in past.files.items():
                if text and file != copy.params_file.name:  # a version without it is told of by what lacks it
                    (tree / file).write_text(text, encoding="utf-8")
            yield _code(tree, past)
            yield from _identity(registry, past)
            if past.params.get("pretrained") is not None:
                yield _published(registry, past, tree)
            yield _materialised(past, tree)
            if score:
                yield from _scores(registry, version, past, tree, tell)
            if retrain:
                yield _retrained(past, copy, folder / "empty", tell)


def _stored(registry: Registry, version: Any, folder: Path) -> Check:
    try:
        registry.model_folder(version, folder / "stored")
    except StageError as error:
        return Check("stored model", False, str(error))
    return Check("stored model", True, f"md5 {registry.registered(version).content['model_md5']}, as registered")


def _environment(past: Past) -> Check:
    """Packages of the recorded lock against the installed ones; those that are not installed here are for other platforms."""
    differing = []
    for name, pinned in past.packages.items():
        with contextlib.suppress(PackageNotFoundError):
            if (found := package_version(name).partition("+")[0]) != pinned:
                differing.append(f"{name} {pinned} (installed: {found})")
    return Check("environment", not differing, _listed(differing) or f"{len(past.packages)} packages as in the recorded lock")


def _commit(version: Any, known: Known) -> str:
    """The commit that a version is of, by the record. Raises UserError where none is on record."""
    found = str(known.content.get("commit", "")).removesuffix("-dirty")
    if not found:
        raise UserError(
            f"version {version.version} has no commit on record, must have one to be made again: commit the code, then register it anew"
        )
    return found


def _not_plain(params: Mapping[str, Any], dvc_yaml: str) -> str:
    """What params would put into dvc.yaml, whose commands a shell runs and whose paths are written to, that is no plain word."""
    inner = re.findall(r"\$\{(.*?)\}", dvc_yaml, re.DOTALL)
    for name in sorted({"candidate", *(re.split(r"[.\[\s]", each.strip())[0] for each in inner)}):
        for word in _words(params.get(name)):
            if not PLAIN.fullmatch(word) or ".." in word:
                return f"params.yaml, as it was registered, has {word!r} under {name}: it goes into commands, must be a plain word"
    return ""


def _outside(lock: Mapping[str, Any]) -> str:
    """What dvc.lock would have DVC write that lies outside of the worktree: it lists the files of an out."""
    for word in _words([stage.get("outs") for stage in lock.values()]):
        path = PurePosixPath(word)
        if path.is_absolute() or ".." in path.parts:
            return f"dvc.lock, as it was registered, has {word!r} among a stage's outs, which DVC writes: must be inside of the workspace"
    return ""


def _words(value: Any) -> Iterator[str]:
    """All keys and values of nested params, as DVC would write them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)
    elif value is not None:
        yield str(value)


def _code(tree: Path, past: Past) -> Check:
    """Every source file that a stage depended on against the commit's."""
    recorded = {path: md5 for path, md5 in past.hashes("deps").items() if not path.startswith(("artifacts/", "data/"))}
    differing = [
        path
        for path, md5 in sorted(recorded.items())
        if not md5.endswith(".dir") and (not (tree / path).is_file() or file_md5(tree / path) != md5)
    ]
    return Check("code", not differing, _listed(differing, "not in the commit as it ran: ") or f"{len(recorded)} files as in the commit")


def _identity(registry: Registry, past: Past) -> Iterator[Check]:
    """Of which stages the recorded lock names code that did not make their outputs: a person said that it would make the same."""
    accepted = (one for one in identity.accepted(registry, past.lock) if not one["since"])
    return (Check("identity", True, identity.words(one)) for one in accepted)


def _published(registry: Registry, past: Past, tree: Path) -> Check:
    """The published model that training began from, linked into the tree: is it still what was read?"""
    recorded = past.said("pretrained")
    if not recorded:
        return Check("published base", True, "not on record: registered by an earlier Sluice")
    try:
        found = pretrained.restore(registry, registry.tracker.workspace.root, past.params["pretrained"], recorded.get("resolved"), tree)
    except SluiceError as error:
        return Check("published base", False, str(error).removeprefix("pretrained: "))
    as_read = found == recorded.get("md5")
    return Check("published base", as_read, f"md5 {found}" + ("" if as_read else f", training began from {recorded.get('md5')}"))


def _materialised(past: Past, tree: Path) -> Check:
    """The candidate, checked out by the recorded dvc.lock, from the cache or the remote."""
    out = candidate_folder(tree, past.params).relative_to(tree).as_posix()
    for command in ("checkout", "pull"):
        done = _run(listing.dvc(command, out), tree)
        if done.returncode == 0 and (tree / out).is_dir():
            return _compare("lock and cache", past, tree)
    missing = f"{out} of the recorded lock is not in DVC's cache, and 'dvc pull' brings it not ({masked(checkout.last_words(done))})"
    return Check("lock and cache", False, f"{missing}: mend the remote, or '--retrain' makes it again")


def _compare(name: str, past: Past, tree: Path) -> Check:
    found, registered = folder_md5(candidate_folder(tree, past.params)), past.known.content.get("model_md5")
    return Check(name, found == registered, f"md5 {found}" + ("" if found == registered else f", registered {registered}"))


def _scores(registry: Registry, version: Any, past: Past, tree: Path, tell: Tell) -> Iterator[Check]:
    """Each suite asked again, by the commit's own command; item by item against what was registered."""
    try:
        suites, cells = registry.items_of(version), Pipeline(Workspace(tree)).cells
    except SluiceError as error:
        yield Check("scores", False, str(error))
        return
    for place in {PurePosixPath(cell.suite_path).parent.as_posix() for cell in cells}:
        _run(listing.dvc("checkout", place), tree)
    for suite, items in suites.items():
        cell = next((cell for cell in cells if (cell.model, cell.suite) == (past.params["candidate"], suite)), None)
        if cell is None:
            yield Check(f"score {suite}", False, f"the commit's dvc.yaml has no stage that scores {past.params['candidate']} on {suite}")
            continue
        tell(f"    {len(items)} items of {suite} are asked again")
        last, code = _heard(["sh", "-c", cell.stage.command], tree, lambda _line: None)
        path = tree / cell.items_path / "items.jsonl"
        if code or not path.is_file():
            yield Check(f"score {suite}", False, f"could not be scored again: {last}")
            continue
        again = {item["id"]: item for item in read_lines(path)}
        other = [item["id"] for item in items if again.get(item["id"]) != item]
        same = len(items) == len(again) and not other
        yield Check(f"score {suite}", same, f"{len(items)} items equal" if same else _listed(other, "items that differ: "))


def _retrained(past: Past, copy: Workspace, empty: Path, tell: Tell) -> Check:
    """Everything made again from the data, with an empty cache; compared byte for byte."""
    tree = copy.root
    for pointer in sorted((tree / "data").rglob("*.dvc")):
        done = _run(listing.dvc("checkout", str(pointer.relative_to(tree))), tree)
        if done.returncode:
            return Check("retrained", False, f"{pointer.relative_to(tree)} cannot be checked out: {masked(checkout.last_words(done))}")
    checkout.use_cache(copy, empty)
    maker = Pipeline(copy).maker(past.params["candidate"])
    if maker is None:
        return Check("retrained", False, f"the commit's dvc.yaml has no stage that makes {past.params['candidate']}")
    last, code = _heard(
        listing.dvc("repro", "--force", maker.name), tree, lambda line: tell(f"    {line}") if line.startswith(RUNNING) else None
    )
    return Check("retrained", False, f"training failed: {last}") if code else _compare("retrained", past, tree)


def _heard(command: list[str], folder: Path, hear: Tell) -> tuple[str, int]:
    """Run a command that may take long, and dies with us; return its last words and its exit code."""
    last = "no output"

    def keep(line: str) -> None:
        nonlocal last
        last = line or last
        hear(line)

    code = stream(command, folder, env_of(folder), keep, threading.TIMEOUT_MAX)
    return last, code


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env_of(folder))


def env_of(folder: Path) -> dict[str, str]:
    """The worktree's own code; its MLflow runs stay in the worktree too."""
    hidden = ("MLFLOW_TRACKING_URI", "SLUICE_WARM", "SLUICE_FLOW_RUN_ID", "SLUICE_PARENT_RUN_ID", "SLUICE_PARENT_RUN", "PREFECT_API_URL")
    return {**{name: value for name, value in os.environ.items() if name not in hidden}, "PYTHONPATH": str(folder)}


def _listed(names: list[str], before: str = "") -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{before}{', '.join(names[:SHOWN])}{more}" if names else ""
