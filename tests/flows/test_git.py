"""Which commit a run says that it came from: real repositories, and machines without git."""

import shutil
import subprocess

import pytest

from flows.host import git
from flows.stages.pipeline import git_commit
from tests import workspaces

DEPS = "[scripts/own.py, 'artifacts/${item}', ../beside, /elsewhere, 's3://bucket/key']"
DVC_YAML = f"stages:\n  one:\n    cmd: x\n    deps: {DEPS}\n    outs: [out]\n"


@pytest.fixture
def checkout(tmp_path):
    for name, text in {"tasks/one.py": "", "dvc.yaml": DVC_YAML, "dvc.lock": "a", "params.yaml": "a: 1", ".gitignore": "*.pyc\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    workspaces.make_repository(tmp_path)
    return tmp_path


def head(root):
    return workspaces.git(root, "rev-parse", "HEAD")


def put(path, text="changed"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_a_run_writes_and_a_stray_note_leave_the_commit_clean(checkout):
    for name in ("dvc.lock", "params.yaml", "metrics/one.json", "notes.txt", "tasks/one.pyc"):
        put(checkout / name)
    assert git_commit(checkout) == head(checkout)


@pytest.mark.parametrize("name", ["tasks/one.py", "tasks/new.py", "models/deep/new.yaml", "flows/new.py", "scripts/own.py"])
def test_a_file_of_the_code_that_the_commit_does_not_hold_makes_it_dirty(checkout, name):
    put(checkout / name)
    assert git_commit(checkout) == f"{head(checkout)}-dirty"


def test_a_workspace_in_a_folder_of_a_repository_is_judged_by_its_own_files(checkout):
    for name in ("inner/tasks/two.py", "inner/dvc.yaml"):
        put(checkout / name, DVC_YAML)
    workspaces.git(checkout, "add", "-A")
    workspaces.git(checkout, "commit", "-qm", "inner")
    put(checkout / "tasks" / "new.py")
    assert git_commit(checkout / "inner") == head(checkout)
    put(checkout / "inner" / "tasks" / "new.py")
    assert git_commit(checkout / "inner") == f"{head(checkout)}-dirty"


def test_no_repository_no_commit_and_no_git_are_no_commit_and_no_error(tmp_path, checkout, monkeypatch):
    empty = tmp_path / "empty"
    subprocess.run(["git", "init", "-q", empty], check=True)
    assert git_commit(empty) == ""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path.parent / "bare").mkdir(exist_ok=True)
    assert git_commit(tmp_path.parent / "bare") == ""
    monkeypatch.setenv("PATH", str(empty))
    assert git_commit(checkout) == ""
    assert git.committed(checkout, "dvc.lock") == []


def test_a_file_is_known_as_it_was_committed_and_as_it_is_staged(checkout):
    put(checkout / "dvc.lock", "b")
    assert git.committed(checkout, "dvc.lock") == [b"a", b"a"]
    subprocess.run(["git", "add", "dvc.lock"], cwd=checkout, check=True)
    assert git.committed(checkout, "dvc.lock") == [b"a", b"b"]
    assert git.committed(checkout, "dvc.yaml.lock") == []


@pytest.mark.parametrize("words", ["empty", "untrusted", "broken", "nowhere"])
def test_what_is_in_the_way_of_a_commit_is_said_with_what_to_do(words, tmp_path, checkout, monkeypatch):
    assert git.why_no_commit(checkout) == ""
    if words == "empty":
        checkout = tmp_path / "empty"
        subprocess.run(["git", "init", "-q", checkout], check=True)
    elif words == "untrusted":
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as git's own tests have it
    elif words == "broken":
        put(checkout / ".git" / "HEAD")
    else:
        shutil.move(checkout / ".git", tmp_path / "away")
        put(checkout / ".git", "gitdir: /nowhere/at/all")
    said = {"empty": "no commit yet", "untrusted": "safe.directory", "broken": "not a git repository", "nowhere": "not a git repository"}
    assert said[words] in git.why_no_commit(checkout)
    assert git_commit(checkout) == ""


@pytest.mark.parametrize("program", ["no program at all", "#!/nowhere/at/all", "#!/bin/sh\nexec /bin/sleep 60"])
def test_a_git_that_is_none_or_hangs_ends_nothing(program, tmp_path, checkout, monkeypatch):
    monkeypatch.setattr(git, "PATIENCE_S", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    put(tmp_path / "programs" / "git", program)
    (tmp_path / "programs" / "git").chmod(0o755)
    assert git_commit(checkout) == ""
    assert "apt install git" in git.why_no_commit(checkout)


def test_an_old_git_is_asked_in_words_that_it_knows(tmp_path, checkout, monkeypatch):
    real = shutil.which("git")
    put(tmp_path / "programs" / "git", f'#!/bin/sh\ncase "$1" in --no-optional-locks) exit 129;; esac\nexec {real} "$@"\n')
    (tmp_path / "programs" / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"), prepend=":")
    assert git_commit(checkout) == head(checkout)
