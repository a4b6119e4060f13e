"""What git knows of a checkout, where there is git and a repository."""

import errno
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from flows.host.masking import masked

CODE = ("tasks", "models", "flows")
NO_PROGRAM = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP)
PATIENCE_S = 120.0  # on a file system whose server is gone git waits for ever
WRITTEN = ("dvc.lock", "metrics", "params.yaml")  # by a run itself: a version carries its own


def ask(root: Path, *words: str) -> subprocess.CompletedProcess[bytes] | None:
    """What `git WORDS` answers in `root`; None where no git is installed, or it does not answer."""
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(["git", *words], cwd=root, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        if error.errno in NO_PROGRAM:
            return None
        raise


def why_no_commit(root: Path) -> str:
    """What is in the way of a commit on record, and what to do; "" where there is one."""
    head = ask(root, "rev-parse", "--verify", "HEAD")
    if head is None:
        return "git is not installed, or does not answer: apt install git"
    if head.returncode == 0:
        return ""
    said = " ".join(head.stderr.decode(errors="replace").split())
    if "dubious ownership" in said:
        return f"git does not trust {root}, which is another user's: git config --global --add safe.directory '{root}'"
    if "Needed a single revision" in said:
        return "there is no commit yet: git add -A, git commit"
    return f"git says {masked(said)[:200]!r}: work in a clone"


def committed(root: Path, path: str) -> list[bytes]:
    """The file as HEAD has it and as it is staged; none where git knows it not."""
    answers = [ask(root, "cat-file", "--filters", f"{revision}:./{path}") for revision in ("HEAD", "")]
    return [answer.stdout for answer in answers if answer is not None and answer.returncode == 0]


def holds(root: Path, path: str) -> bool:
    """Whether git has the file as it is now, in any commit or staged; not where there is no git."""
    named = ask(root, "hash-object", "--", path)
    if named is None or named.returncode:
        return False
    found = ask(root, "cat-file", "-e", named.stdout.decode().strip())
    return found is not None and found.returncode == 0


def commit(root: Path, deps: Iterable[str]) -> str:
    """The checked-out commit, "-dirty" after it where it does not hold the code as it is; "" without git, a repository or a commit.

    Dirty: a tracked file differs that a run does not write itself, or git neither tracks nor ignores a file among the code or the `deps`.
    """
    head = ask(root, "rev-parse", "--verify", "HEAD")
    if head is None or head.returncode:
        return ""
    changed = ask(root, "diff", "--quiet", "HEAD", "--", ".", *(f":(exclude){path}" for path in WRITTEN))
    inside = sorted({*CODE, *(dep for dep in deps if not dep.startswith(("/", "..")) and "://" not in dep)})
    added = ask(root, "ls-files", "--others", "--exclude-standard", "--", *(f":(literal){path}" for path in inside))
    dirty = any(answer is None or answer.returncode or answer.stdout for answer in (changed, added))
    return head.stdout.decode().strip() + ("-dirty" if dirty else "")
