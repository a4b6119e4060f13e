"""What git knows of a checkout, where there is git and a repository."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

CODE = ("tasks", "models", "flows")
WRITTEN = ("dvc.lock", "metrics", "params.yaml")  # by a run itself: a version carries its own


def ask(root: Path, *words: str) -> subprocess.CompletedProcess[bytes] | None:
    """What `git WORDS` answers in `root`; None where no git is installed."""
    try:
        return subprocess.run(["git", "--no-optional-locks", *words], cwd=root, capture_output=True)
    except (FileNotFoundError, PermissionError):
        return None


def committed(root: Path, path: str) -> list[bytes]:
    """The file as HEAD has it and as it is staged; none where git knows it not."""
    answers = [ask(root, "cat-file", "--filters", f"{revision}:./{path}") for revision in ("HEAD", "")]
    return [answer.stdout for answer in answers if answer is not None and answer.returncode == 0]


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
