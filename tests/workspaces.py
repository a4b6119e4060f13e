"""Real workspaces for tests: the code of this checkout in a clone of its own, and the real commands in it."""

import contextlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ruamel.yaml import YAML

from flows.cli import main

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
CODE = ("flows", "tasks", "models", "requirements")
REST = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "data/pretrained/.gitkeep",
    "data/raw/.gitkeep",
    "dvc.yaml",
    "prefect.yaml",
    "requirements.lock",
)  # what else a run needs of a clone: no data, metrics, params or lock of the developer's


def make_workspace(folder: Path, recipe: str = "nano", checkout: Path = ROOT) -> Path:
    """Copy the code of a checkout, as it is on disk, into a repository of its own, clean and never run; params.yaml is `recipe`, if any."""
    for name in CODE:
        shutil.copytree(checkout / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in REST:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(checkout / name, folder / name)
    if recipe:
        assert run(folder, "sluice", "recipe", "use", recipe).returncode == 0
    make_repository(folder)
    return folder


def make_repository(root: Path) -> None:
    """Put all that is in a folder into a commit of a new repository."""
    for command in (["init", "-q", "."], ["add", "-A"], ["commit", "-qm", "a clone"]):
        git(root, *command)


def made_once(root: Path, files: Mapping[str, str], store: Path) -> Path:
    """A repository of these files, with an MLflow store, whose pipeline ran once; its lock is not committed."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / ".sluice").mkdir()
    shutil.copy(store, root / ".sluice" / "mlflow.db")
    make_repository(root)
    done = run(root, "dvc", "repro", "--quiet")
    assert done.returncode == 0, done.stderr
    return root


def git(root: Path, *words: str) -> str:
    """Run git in a repository as somebody, whatever this user's settings; return what it printed."""
    settings = ("user.name=test", "user.email=test@example.org", "commit.gpgsign=false", "core.hooksPath=/dev/null")
    command = ["git", *(word for setting in settings for word in ("-c", setting)), *words]
    return subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def environment(workspace: Path, **extra: str) -> dict[str, str]:
    """A newcomer's environment: this interpreter's programs first, nothing of Prefect or MLflow set.

    But for the slots of the machine's devices, which are the workspace's own: tests that run beside each other have one thread each.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "SLUICE_", "DVC_"))}
    path = os.pathsep.join([str(PROGRAMS), kept.get("PATH", "")])
    return {**kept, "PATH": path, "PYTHONPATH": str(workspace), "SLUICE_SLOTS": str(workspace / ".sluice" / "slots"), **extra}


def run(workspace: Path, *command: str, timeout: float = 600, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in the workspace and return what it said."""
    program = str(PROGRAMS / command[0])
    return subprocess.run(
        [program, *command[1:]], cwd=workspace, env=environment(workspace, **extra), capture_output=True, text=True, timeout=timeout
    )


def call(workspace: Path, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """`sluice WORDS` in the workspace as `run` has it, but in this process: what it imports, in two to six seconds, is there already."""
    said, told = io.StringIO(), io.StringIO()
    with _inside(workspace, environment(workspace, **extra)), contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        code = main.run_command(list(words))
    return subprocess.CompletedProcess(words, code, said.getvalue(), told.getvalue())


@contextlib.contextmanager
def _inside(folder: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Work in a folder with these variables and no others, nobody at the keyboard; all is put back."""
    before, keyboard = dict(os.environ), sys.stdin
    try:
        sys.stdin = io.StringIO()
        os.environ.clear()
        os.environ.update(env)
        with contextlib.chdir(folder):
            yield
    finally:
        sys.stdin = keyboard
        os.environ.clear()
        os.environ.update(before)


def copy_of(workspace: Path, folder: Path) -> Path:
    """A copy of a workspace with all its state, for a test that changes it: MLflow's database names the copy's files, not the original's.

    Copied whole, in a seventh of a second: a finished nano workspace is 700 files of 23 MB, and links would share what is written in place.
    """
    shutil.copytree(workspace, folder, symlinks=True)
    database = folder / ".sluice" / "mlflow.db"
    if database.exists():
        with contextlib.closing(sqlite3.connect(database)) as store, store:
            _rename(store, f"{workspace}/", f"{folder}/")
    return folder


def without_stages(workspace: Path, stages: Sequence[str]) -> Path:
    """Put a finished workspace back to where its run had done all but these stages, and had told neither MLflow nor anybody of them.

    Prefect's database stays: its tables take six seconds to make.
    """
    path, yaml = workspace / "dvc.lock", YAML()
    lock = yaml.load(path.read_text(encoding="utf-8"))
    for out in [out for stage in stages for out in lock["stages"].pop(stage)["outs"]]:
        made = workspace / out["path"]
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(lock, file)
    shutil.move(workspace / ".sluice" / "prefect", workspace / "prefect")
    for remembers in (".sluice", ".work", ".dvc/cache/runs", ".dvc/tmp"):
        shutil.rmtree(workspace / remembers, ignore_errors=True)
    (workspace / ".sluice").mkdir()
    shutil.move(workspace / "prefect", workspace / ".sluice" / "prefect")
    return workspace


def _rename(store: sqlite3.Connection, old: str, new: str) -> None:
    """Replace a folder's name in every column of a database."""
    for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for column in [row[1] for row in store.execute(f'PRAGMA table_info("{table}")')]:
            store.execute(f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)', (old, new, old))


def snapshot(*places: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file at these places, by its path."""
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*")) if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
