"""Real workspaces for tests: a copy of this checkout as a fresh clone would be, and the real commands in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent


def make_workspace(folder: Path, recipe: str = "nano") -> Path:
    """Copy what git knows of this checkout, and what it does not ignore, into a repository of its own; write `recipe` into params.yaml."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for lock in ("dvc.lock",):
        (folder / lock).unlink(missing_ok=True)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q", "."], ["add", "-A"], ["commit", "-qm", "a clone"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    if recipe:
        assert run(folder, "sluice", "recipe", "use", recipe).returncode == 0
    return folder


def environment(workspace: Path, **extra: str) -> dict[str, str]:
    """A newcomer's environment: this interpreter's programs first, nothing of Prefect or MLflow set.

    But for the places of the machine's devices, which are the workspace's own: tests that run beside each other have one thread each.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "SLUICE_", "DVC_"))}
    path = os.pathsep.join([str(PROGRAMS), kept.get("PATH", "")])
    return {**kept, "PATH": path, "PYTHONPATH": str(workspace), "SLUICE_PLACES": str(workspace / ".sluice" / "places"), **extra}


def run(workspace: Path, *command: str, timeout: float = 600, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in the workspace and return what it said."""
    program = str(PROGRAMS / command[0])
    return subprocess.run(
        [program, *command[1:]], cwd=workspace, env=environment(workspace, **extra), capture_output=True, text=True, timeout=timeout
    )


def copy_of(workspace: Path, folder: Path) -> Path:
    """A copy of a workspace with all its state, for a test that changes it."""
    shutil.copytree(workspace, folder, symlinks=True)
    return folder
