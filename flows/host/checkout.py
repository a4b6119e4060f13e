"""A checkout of one commit beside the workspace, for as long as a block lasts; one that a killed process left behind goes with the next."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flows.host import git
from flows.host.workspace import locked
from models.core.errors import UserError

PREFIX, LOCK, TREE = "sluice-verify-", "lock", "tree"
COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")  # of what else the registry says git might take for an option
NONE = "0" * 40


@contextlib.contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder of our own, locked while we live, once those of the dead are gone, worktrees of the repository at `root` included."""
    clear(root)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as name, locked(Path(name) / LOCK):
        yield Path(name)


@contextlib.contextmanager
def checkout(root: Path, commit: str, folder: Path, whose: str) -> Iterator[Path]:
    """The commit, checked out into a folder of `folder`; no hook runs. Raises UserError where the repository does not hold it."""
    tree, quiet = folder / TREE, ["-c", "core.hooksPath=/dev/null"]
    done = git.ask(root, *quiet, "worktree", "add", "--detach", str(tree), commit if COMMIT.fullmatch(commit) else NONE)
    if done is None:
        raise UserError("a version is made again in a worktree of its commit, and no git is installed: install it")
    if done.returncode:
        raise UserError(f"{whose} is of commit {commit or 'none'}, which this repository does not hold: 'git fetch' it first")
    try:
        yield tree
    finally:
        git.ask(root, "worktree", "remove", "--force", str(tree))


def clear(root: Path) -> list[Path]:
    """Remove what verifications of this repository left that were killed; return the folders. The lock of a living one says so."""
    listed = git.ask(root, "worktree", "list", "--porcelain")
    lines = [] if listed is None else listed.stdout.decode(errors="replace").splitlines()
    trees = [Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree ")]
    left = {tree.parent for tree in trees if tree.name == TREE and tree.parent.name.startswith(PREFIX)}
    gone = [folder for folder in sorted(left | set(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))) if _is_dead(folder)]
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
    git.ask(root, "worktree", "prune")
    return gone


def _is_dead(folder: Path) -> bool:
    """Whether a folder of ours has nobody who holds its lock any more; one without a lock is about to get one."""
    with contextlib.suppress(OSError):
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return False
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False
