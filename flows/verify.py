"""Whether a registered version is what its record says: fetched, made again from its commit and lock, scored again, trained again.

All of it happens in a git worktree of the recorded commit, with the recorded params.yaml and dvc.lock put in place; the workspace is
not touched.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from flows import pretrained
from flows.lineage import Past
from flows.processes import program, stream
from flows.registry import Registry, file_md5
from flows.release import CANDIDATE, candidate_folder
from models.errors import SluiceError, StageError, UserError
from models.records import folder_md5, read_lines

SHOWN = 5
RUNNING = "Running stage"  # DVC says so before each
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, whether it held, and what was seen."""

    name: str
    ok: bool
    seen: str


def verify(registry: Registry, version: Any, retrain: bool, score: bool, tell: Tell) -> Iterator[Check]:
    """Yield each check as it is done; tell what is made again.

    Raises UserError where the commit is not at hand. Ctrl-C and SIGTERM leave no worktree behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="sluice-verify-") as name:
        folder = Path(name)
        yield _stored(registry, version, folder)
        past = Past(registry, version, folder)
        yield _environment(past)
        with _worktree(registry.tracker.workspace.root, version, folder / "tree") as tree:
            for file, text in past.files.items():
                if text:  # a version without it is told of by what lacks it
                    (tree / file).write_text(text, encoding="utf-8")
            yield _code(tree, past)
            if past.params.get("pretrained") is not None:
                yield _published(registry, past, tree)
            yield _materialised(version, tree)
            if score:
                yield from _scores(registry, version, past, tree, tell)
            if retrain:
                yield _retrained(version, tree, folder / "cache", tell)


def _stored(registry: Registry, version: Any, folder: Path) -> Check:
    try:
        registry.model_folder(version, folder / "stored")
    except StageError as error:
        return Check("stored model", False, str(error))
    return Check("stored model", True, f"md5 {version.tags['sluice.model_md5']}, as registered")


def _environment(past: Past) -> Check:
    """Packages of the recorded lock against the installed ones; those that are not installed here are for other platforms."""
    differing = []
    for name, pinned in past.packages.items():
        with contextlib.suppress(PackageNotFoundError):
            if (found := package_version(name).partition("+")[0]) != pinned:
                differing.append(f"{name} {pinned} (installed: {found})")
    return Check("environment", not differing, _listed(differing) or f"{len(past.packages)} packages as in the recorded lock")


@contextlib.contextmanager
def _worktree(root: Path, version: Any, tree: Path) -> Iterator[Path]:
    commit = version.tags.get("git.commit", "").removesuffix("-dirty")
    if shutil.which("git") is None:
        raise UserError("a version is made again in a worktree of its commit, and no git is installed: install it")
    done = _run(["git", "worktree", "add", "--detach", str(tree), commit or "HEAD"], root)
    if not commit or done.returncode:
        raise UserError(
            f"version {version.version} is of commit {commit or 'none'}, which this repository does not hold: 'git fetch' it first"
        )
    try:
        cache = _run([program("dvc"), "cache", "dir"], root).stdout.strip()
        _must([program("dvc"), "cache", "dir", "--local", cache], tree)
        yield tree
    finally:
        _run(["git", "worktree", "remove", "--force", str(tree)], root)


def _code(tree: Path, past: Past) -> Check:
    """Every source file that a stage depended on against the commit's."""
    recorded = {path: md5 for path, md5 in past.hashes("deps").items() if not path.startswith(("artifacts/", "data/"))}
    differing = [
        path
        for path, md5 in sorted(recorded.items())
        if not md5.endswith(".dir") and (not (tree / path).is_file() or file_md5(tree / path) != md5)
    ]
    return Check("code", not differing, _listed(differing, "not in the commit as it ran: ") or f"{len(recorded)} files as in the commit")


def _published(registry: Registry, past: Past, tree: Path) -> Check:
    """The published model that training began from, linked into the tree: is it still what was read?"""
    recorded = json.loads(past.version.tags.get("sluice.pretrained", "{}"))
    if not recorded:
        return Check("published base", True, "not on record: registered by an earlier Sluice")
    try:
        found = pretrained.restore(registry, past.params["pretrained"], recorded.get("resolved"), tree)
    except SluiceError as error:
        return Check("published base", False, str(error).removeprefix("pretrained: "))
    as_read = found == recorded.get("md5")
    return Check("published base", as_read, f"md5 {found}" + ("" if as_read else f", training began from {recorded.get('md5')}"))


def _materialised(version: Any, tree: Path) -> Check:
    """The candidate, checked out by the recorded dvc.lock, from the cache or the remote."""
    out = candidate_folder(tree).relative_to(tree).as_posix()
    for command in ("checkout", "pull"):
        if _run([program("dvc"), command, out], tree).returncode == 0 and (tree / out).is_dir():
            return _compare("lock and cache", version, tree)
    return Check(
        "lock and cache", False, f"{out} of the recorded lock is neither in DVC's cache nor in a remote: '--retrain' makes it again"
    )


def _compare(name: str, version: Any, tree: Path) -> Check:
    found, registered = folder_md5(candidate_folder(tree)), version.tags.get("sluice.model_md5")
    return Check(name, found == registered, f"md5 {found}" + ("" if found == registered else f", registered {registered}"))


def _scores(registry: Registry, version: Any, past: Past, tree: Path, tell: Tell) -> Iterator[Check]:
    """Each suite asked again; item by item against what was registered."""
    _run([program("dvc"), "checkout", "artifacts/suites"], tree)
    for suite, items in registry.items_of(version).items():
        stage = f"benchmark@{CANDIDATE}-{suite}"
        tell(f"    {len(items)} items of {suite} are asked again")
        if stage not in past.lock:
            yield Check(f"score {suite}", False, f"dvc.lock, as it was registered, has no stage {stage}")
            continue
        done = _run(["sh", "-c", past.lock[stage]["cmd"]], tree)
        path = tree / "artifacts" / "benchmark" / f"{CANDIDATE}-{suite}" / "items.jsonl"
        if done.returncode or not path.is_file():
            yield Check(f"score {suite}", False, f"could not be scored again: {_last(done)}")
            continue
        again = {item["id"]: item for item in read_lines(path)}
        other = [item["id"] for item in items if again.get(item["id"]) != item]
        same = len(items) == len(again) and not other
        yield Check(f"score {suite}", same, f"{len(items)} items equal" if same else _listed(other, "items that differ: "))


def _retrained(version: Any, tree: Path, cache: Path, tell: Tell) -> Check:
    """Everything made again from the data, with an empty cache; compared byte for byte."""
    for pointer in sorted((tree / "data").rglob("*.dvc")):
        _must([program("dvc"), "checkout", str(pointer.relative_to(tree))], tree)
    _must([program("dvc"), "cache", "dir", "--local", str(cache)], tree)
    last = ""

    def hear(line: str) -> None:
        nonlocal last
        last = line or last
        if line.startswith(RUNNING):
            tell(f"    {line}")

    if stream([program("dvc"), "repro", "--force", CANDIDATE], tree, _env(tree), hear, threading.TIMEOUT_MAX):
        return Check("retrained", False, f"training failed: {last or 'no output'}")
    return _compare("retrained", version, tree)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=_env(folder))


def _env(folder: Path) -> dict[str, str]:
    """The worktree's own code; its MLflow runs stay in the worktree too."""
    hidden = ("MLFLOW_TRACKING_URI", "SLUICE_WARM", "SLUICE_FLOW_RUN_ID", "SLUICE_PARENT_RUN_ID", "SLUICE_PARENT_RUN", "PREFECT_API_URL")
    return {**{name: value for name, value in os.environ.items() if name not in hidden}, "PYTHONPATH": str(folder)}


def _must(command: list[str], folder: Path) -> None:
    done = _run(command, folder)
    if done.returncode:
        raise StageError(f"{' '.join(command[-4:])} failed: {_last(done)}")


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else "no output"


def _listed(names: list[str], before: str = "") -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{before}{', '.join(names[:SHOWN])}{more}" if names else ""
