"""A workspace of one commit beside the one at hand, for as long as a block lasts; what a killed process left of one goes with the next."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from flows.host import failures, git
from flows.host.masking import masked
from flows.host.processes import program
from flows.host.workspace import Workspace, locked
from models.core.errors import SluiceError, StageError, Unavailable, UserError

PREFIX, LOCK, TREE, CACHE = "sluice-checkout-", "lock", "tree", "shared"
COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # what else the registry says git might take for an option
FOLDERS = ("mlartifacts", "spool")
REGISTRY = (*FOLDERS, "mlflow.db", "servers.json", "locks/mlflow.lock", "locks/registry.lock", "locks/spool.lock")


@contextlib.contextmanager
def checkout(workspace: Workspace, commit: str, params: str | None = None, apart: bool = False) -> Iterator[Workspace]:
    """A workspace of that commit, with DVC's cache and remotes of `workspace`; its params.yaml is the text `params`, if given.

    It has the registry of `workspace` too, and its runs are told there, unless it is to be `apart`. No hook runs, and what is not in DVC's
    cache by then is gone with it. Raises UserError, StageError or Unavailable: what keeps the commit from being checked out.
    """
    with scratch(workspace.root) as folder:
        try:
            _add(workspace.root, folder / TREE, commit)
            copy = Workspace(folder / TREE / _prefix(workspace.root))
            _share_cache(workspace, copy, folder / CACHE)
            if not apart:
                _share_registry(workspace, copy)
            if params is not None:
                copy.params_file.write_text(params, encoding="utf-8")
            yield copy
        finally:
            _drop(workspace.root, folder / TREE)


@contextlib.contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder of our own, locked while we live, once those of the dead are gone: all in this temporary folder, all worktrees of `root`."""
    clear(root)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, locked(Path(name) / LOCK):
        yield Path(name)


def clear(root: Path) -> list[Path]:
    """Remove what killed processes left of checkouts of this repository; return the folders. The lock of a living one says so."""
    listed = git.ask(root, "worktree", "list", "--porcelain")
    lines = [] if listed is None else listed.stdout.decode(errors="replace").splitlines()
    trees = [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")]
    left = {tree.parent for tree in trees if tree.name == TREE and tree.parent.name.startswith(PREFIX)}
    known = sorted(left | set(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")))
    gone = [folder for folder in known if _is_dead(folder) or not os.path.lexists(folder)]
    for folder in gone:
        if folder in left:
            _drop(root, folder / TREE)
        shutil.rmtree(folder, ignore_errors=True)
    git.ask(root, "worktree", "prune")
    return gone


def _drop(root: Path, tree: Path) -> None:
    """Remove a worktree, a half-made one too: git locks what it is making, and says of what has lost its .git that it is none."""
    shutil.rmtree(tree, ignore_errors=True)
    git.ask(root, "worktree", "remove", "--force", "--force", str(tree))


def _is_dead(folder: Path) -> bool:
    """Whether a folder of ours has nobody who holds its lock any more; one without a lock is about to get one."""
    with contextlib.suppress(OSError):
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return False
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _add(root: Path, tree: Path, commit: str) -> None:
    """A worktree of the commit. Raises a SluiceError that says what failed."""
    if not COMMIT.fullmatch(commit):
        raise UserError(f"{masked(commit)!r} is no commit, must be the 40 or 64 digits that 'git rev-parse' prints of one: name one")
    done = git.ask(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(tree), commit)
    if done is None or done.returncode:
        raise _failure(root, tree, commit, "" if done is None else done.stderr.decode(errors="replace"))


def _failure(root: Path, tree: Path, commit: str, said: str) -> SluiceError:
    """What kept git, which `said` so, from checking out a commit. Of a full disk it says only which file it could not write."""
    if why := git.why_no_commit(root):
        return UserError(f"commit {commit} is not checked out in {root}: {why}")
    if not said:
        return Unavailable(
            f"git took more than {git.PATIENCE_S:.0f} s for commit {commit} in {tree}: see why its disk is slow, then run again"
        )
    if not _answer(root, "cat-file", "-t", f"{commit}^{{commit}}"):
        return UserError(f"{root} does not hold commit {commit}, must hold it: 'git fetch' it from where it was made, then run again")
    needed, free = _bytes_of(root, commit), shutil.disk_usage(tree.parent).free
    if needed > free:
        sizes = f"commit {commit} takes {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free in {tree.parent}"
        return Unavailable(f"the disk is full: {sizes}: free some space, or name a larger disk in TMPDIR, then run again")
    for number in (*failures.FULL, *failures.FILE_FAULTS):
        if os.strerror(number) in said:
            named = re.findall("'([^']+)'", said)
            return failures.of_system(OSError(number, os.strerror(number), str(root / named[-1] if named else tree)))
    why = masked(" ".join(said.split()))[-300:]
    return StageError(
        f"git cannot check out commit {commit} in {tree}: {why}: 'git fsck' says what the repository lacks, 'git fetch' brings it"
    )


def _answer(root: Path, *words: str) -> str:
    """What git prints; "" where it fails."""
    done = git.ask(root, *words)
    return "" if done is None or done.returncode else done.stdout.decode(errors="replace")


def _bytes_of(root: Path, commit: str) -> int:
    """The size of a commit's files."""
    sizes = (line.split(maxsplit=4)[3] for line in _answer(root, "ls-tree", "-r", "-l", "--full-tree", commit).splitlines())
    return sum(int(size) for size in sizes if size.isdecimal())


def _prefix(root: Path) -> str:
    """Where the workspace lies in its repository: "" at its root."""
    return _answer(root, "rev-parse", "--show-prefix").removesuffix("\n")


def _share_cache(workspace: Workspace, copy: Workspace, link: Path) -> None:
    """DVC's cache of the workspace, and its remotes, which may be named where git does not look."""
    local = workspace.root / ".dvc" / "config.local"
    if local.is_file():
        shutil.copy(local, copy.root / ".dvc" / "config.local")
    link.symlink_to(dvc(workspace.root, "cache", "dir"))
    use_cache(copy, link)


def cache_of(copy: Workspace) -> Path:
    """DVC's cache, as a checkout has it."""
    return next(folder / CACHE for folder in copy.root.parents if (folder / LOCK).is_file())


def use_cache(copy: Workspace, cache: Path) -> None:
    """Have a checkout use that cache, in a folder of `scratch`: DVC writes no path into its config that is not ASCII, a relative one is."""
    dvc(copy.root, "cache", "dir", "--local", os.path.relpath(cache, copy.root))


def _share_registry(workspace: Workspace, copy: Workspace) -> None:
    """What MLflow keeps in the workspace, what waits for it, the servers and the locks of these, under the checkout's own names."""
    for name in FOLDERS:
        (workspace.state / name).mkdir(parents=True, exist_ok=True)
    for place in (workspace, copy):
        (place.state / "locks").mkdir(parents=True, exist_ok=True)
    for name in REGISTRY:
        (copy.state / name).symlink_to(workspace.state / name)


def dvc(root: Path, *words: str, env: Mapping[str, str] | None = None) -> str:
    """What `dvc WORDS` prints. Raises StageError with what it says where it fails."""
    done = subprocess.run([program("dvc"), *words], cwd=root, capture_output=True, text=True, env=env)
    if done.returncode:
        raise StageError(f"dvc {' '.join(words)} failed: {last_words(done)}")
    return done.stdout.strip()


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of what was said; DVC's reason, where it ends in an offer of help."""
    said = done.stderr.strip() or done.stdout.strip() or "no output"
    reason = re.search(r"^ERROR: (?:.+\n?)+", said, re.MULTILINE)
    return " ".join(reason[0].split())[:300] if reason else said.splitlines()[-1]
