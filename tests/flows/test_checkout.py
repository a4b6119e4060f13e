"""A workspace of one commit beside another: real git and DVC, a registry of its own workspace's, a process that is killed in it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.host import checkout
from flows.host.checkout import last_words
from flows.host.tracking import PIPELINE, Tracker
from flows.host.workspace import Workspace, prepare_environment
from flows.registry import verify
from flows.registry.decisions import Registry
from models.core.errors import StageError, Unavailable, UserError
from tests.versions import add_version, files_of
from tests.workspaces import ROOT, environment, git, make_repository

GONE = "f" * 40


@pytest.fixture
def workspace(tmp_path):
    """A repository with one commit, and a remote of DVC's that git does not know of."""
    root = tmp_path / "a ü's 日"
    return Workspace(made(root, root))


def made(root, inside):
    """A repository at `root` whose workspace is the folder `inside` of it."""
    (inside / ".dvc").mkdir(parents=True)
    (inside / ".dvc" / "config").write_text("[core]\nanalytics = false\n")
    (inside / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (inside / "params.yaml").write_text("seed: 1\n")
    (inside / "dvc.yaml").write_text("stages: {}\n")
    (inside / "large.bin").write_bytes(os.urandom(1_000_000))
    make_repository(root)
    (inside / ".dvc" / "config.local").write_text("[core]\nremote = ours\n['remote \"ours\"']\nurl = /nowhere/ours\n")
    return inside


def head(workspace):
    return git(workspace.root, "rev-parse", "HEAD")


def tracker(workspace):
    """MLflow's client puts the store that it is given into the environment: what is asked for next must not find it there."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    return Tracker(workspace, "assistant")


def trees(workspace):
    return git(workspace.root, "worktree", "list", "--porcelain").count("worktree ")


@pytest.mark.long
def test_a_checkout_has_the_commit_with_the_cache_and_the_remotes_of_its_workspace_and_is_gone_after(workspace):
    (workspace.root / "params.yaml").write_text("seed: 2\n")
    with checkout.checkout(workspace, head(workspace)) as copy:
        assert copy.params_file.read_text() == "seed: 1\n"
        cache = Path(checkout.dvc(copy.root, "cache", "dir"))
        assert cache.resolve() == workspace.root / ".dvc" / "cache"
        assert "/nowhere/ours" in checkout.dvc(copy.root, "remote", "list")
    assert (trees(workspace), cache.parent.exists()) == (1, False)


@pytest.mark.long
def test_given_params_stand_in_for_the_commit_s_also_in_a_folder_of_a_repository(tmp_path):
    workspace = Workspace(made(tmp_path / "all", tmp_path / "all" / "models" / "ours"))
    with checkout.checkout(workspace, head(workspace), "seed: 3\n", apart=True) as copy:
        assert copy.params_file.read_text() == "seed: 3\n"
        assert copy.root.parts[-3:] == ("tree", "models", "ours")
        assert Path(checkout.dvc(copy.root, "cache", "dir")).resolve() == workspace.root / ".dvc" / "cache"


@pytest.fixture
def with_registry(workspace, empty_store, monkeypatch):
    """The same, with a database of MLflow's."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    workspace.state.mkdir()
    shutil.copy(empty_store, workspace.state / "mlflow.db")
    prepare_environment(workspace)
    return workspace


@pytest.mark.long
def test_what_a_checkout_registers_is_registered_in_its_workspace(with_registry):
    with checkout.checkout(with_registry, head(with_registry)) as copy:
        inner = Registry(tracker(copy))
        version = add_version(inner, {"q1": 1.0})
        inner.promote("1", None, "promote", "first")
    outer = Registry(tracker(with_registry))
    assert (outer.aliases(), outer.audit()) == ({"champion": "1"}, [])
    assert files_of(outer, version.run_id).is_relative_to(with_registry.state / "mlartifacts")
    assert outer.lock_file.read_text() == str(os.getpid())  # a writer in the workspace would have waited


@pytest.mark.long
def test_a_checkout_apart_leaves_the_registry_alone(with_registry):
    with checkout.checkout(with_registry, head(with_registry), apart=True) as copy:
        tracker(copy).start(PIPELINE, "a run", {})
    assert tracker(with_registry).runs(PIPELINE, "") == []


@pytest.mark.long
def test_a_database_that_a_checkout_was_first_to_need_is_its_workspace_s(workspace):
    prepare_environment(workspace)
    with checkout.checkout(workspace, head(workspace)) as copy:
        tracker(copy).start(PIPELINE, "a run", {})
    assert len(tracker(workspace).runs(PIPELINE, "")) == 1


STANDS = """
import sys, time
from pathlib import Path
from flows.host.checkout import checkout
from flows.host.workspace import Workspace
with checkout(Workspace(Path(sys.argv[1])), sys.argv[2], apart=True) as copy:
    print(copy.root, flush=True)
    time.sleep(600)
"""


@pytest.mark.long
def test_what_a_killed_process_left_goes_with_the_next_use_and_what_a_living_one_has_stays(workspace):
    command = [sys.executable, "-c", STANDS, str(workspace.root), head(workspace)]
    with subprocess.Popen(command, env=environment(ROOT), stdout=subprocess.PIPE, text=True) as child:
        left = Path(child.stdout.readline().strip())
        with checkout.checkout(workspace, head(workspace), apart=True):
            assert (trees(workspace), left.is_dir()) == (3, True)
        child.kill()
    assert (trees(workspace), left.is_dir()) == (2, True)
    with checkout.checkout(workspace, head(workspace), apart=True):
        assert (trees(workspace), left.parent.exists()) == (2, False)


def begins_slowly(workspace):
    """Have git take its time over a checkout."""
    (workspace.root / ".gitattributes").write_text("large.bin filter=slow\n")
    git(workspace.root, "add", "-A")
    git(workspace.root, "commit", "-qm", "slow")
    git(workspace.root, "config", "filter.slow.smudge", "sleep 20; cat")


def test_a_signal_while_git_makes_the_worktree_leaves_none(workspace, scratch):
    begins_slowly(workspace)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt), checkout.checkout(workspace, head(workspace)):
            pass
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (trees(workspace), list(scratch.iterdir())) == (1, [])


@pytest.mark.parametrize("folder_is_gone", [True, False])
def test_a_worktree_that_git_was_making_when_all_was_killed_goes_with_the_next_use(workspace, scratch, folder_is_gone):
    left = scratch / f"{checkout.PREFIX}left"
    git(workspace.root, "worktree", "add", "-q", "--detach", "--lock", str(left / checkout.TREE), head(workspace))
    (left / checkout.LOCK).touch()
    (left / checkout.TREE / ".git").unlink()
    if folder_is_gone:
        shutil.rmtree(left)
    assert trees(workspace) == 2
    assert checkout.clear(workspace.root) == [left]
    assert (trees(workspace), list(scratch.iterdir())) == (1, [])


def refused(workspace, commit, kind):
    """What is said where a commit is not checked out, in a line; nothing is left of the attempt."""
    with pytest.raises(kind) as raised, checkout.checkout(workspace, commit):
        pass
    assert (type(raised.value), len(str(raised.value).splitlines())) == (kind, 1)
    assert list(Path(tempfile.gettempdir()).glob(f"{checkout.PREFIX}*")) == []
    return str(raised.value)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where checkouts of a test are made; the environment is put back after."""
    folder, before = tmp_path / "scratch", dict(os.environ)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("commit", ["", "--force", "HEAD", "HEAD; touch x", "f" * 39])
def test_what_is_no_commit_s_name_never_reaches_git(workspace, commit):
    assert refused(workspace, commit, UserError).startswith(f"{commit!r} is no commit, must be the 40 or 64 digits")


def test_a_commit_that_the_repository_does_not_hold_is_said_to_be_missing(workspace):
    said = f"{workspace.root} does not hold commit {GONE}, must hold it: 'git fetch' it from where it was made, then run again"
    assert refused(workspace, GONE, UserError) == said


def test_a_folder_that_is_no_repository_is_said_to_be_none(workspace):
    commit = head(workspace)
    shutil.rmtree(workspace.root / ".git")
    said = refused(workspace, commit, UserError)
    assert "not a git repository" in said
    assert said.endswith("work in a clone")


def test_git_that_is_not_installed_is_said_to_be_missing(workspace, monkeypatch):
    commit = head(workspace)
    monkeypatch.setenv("PATH", str(workspace.root))
    assert refused(workspace, commit, UserError).endswith("git is not installed, or does not answer: apt install git")


def test_a_disk_that_is_too_small_is_said_to_be_full(workspace, scratch):
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", scratch], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root, and to be allowed to")
    try:
        said = refused(workspace, head(workspace), Unavailable)
    finally:
        subprocess.run(["umount", scratch], check=True)
    assert "the disk is full: commit" in said
    assert "takes 1.0 MB, 0.3 MB are free in" in said
    assert said.endswith("free some space, or name a larger disk in TMPDIR, then run again")


def test_a_folder_that_git_cannot_make_is_named(workspace):
    commit, metadata = head(workspace), workspace.root / ".git" / "worktrees"
    metadata.write_text("in the way")  # root may write whatever is closed
    said = refused(workspace, commit, UserError)
    assert said == f"{metadata}/tree lies below a file, must lie in a folder: move the file away, or correct the path"


@pytest.mark.skipif(os.getuid() != 0, reason="becoming somebody else needs root")
def test_a_folder_that_is_closed_to_the_user_is_named():
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as folder:  # pytest's own folders are closed to others
        workspace = Workspace(made(Path(folder) / "clone", Path(folder) / "clone"))
        settings = Path(folder) / "gitconfig"
        settings.write_text("[safe]\ndirectory = *\n")
        (Path(folder) / "scratch").mkdir()
        for path, mode in ((Path(folder), 0o755), (Path(folder) / "scratch", 0o777)):
            path.chmod(mode)
        program = f"""
from pathlib import Path
from flows.host.checkout import checkout
from flows.host.workspace import Workspace
import getpass, os, pwd  # the interpreter may lie in a folder that is closed to others
os.setgid(12345)
os.setuid(12345)
with checkout(Workspace(Path({str(workspace.root)!r})), {head(workspace)!r}):
    pass
"""
        env = environment(ROOT, TMPDIR=f"{folder}/scratch", GIT_CONFIG_GLOBAL=str(settings), HOME="/nonexistent")
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
        said = done.stderr.splitlines()[-1]
        assert said.startswith(f"models.core.errors.UserError: {workspace.root}/.git/worktrees/tree is closed to this user ("), done.stderr
        assert said.endswith("'chmod' or 'chown' it, or run as its owner")


def test_an_object_that_the_repository_lacks_is_what_git_says_it_is(workspace):
    blob = git(workspace.root, "rev-parse", "HEAD:params.yaml")
    (workspace.root / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    said = refused(workspace, head(workspace), StageError)
    assert f"unable to read sha1 file of params.yaml ({blob})" in said
    assert "'git fsck' says what the repository lacks" in said


def test_an_offer_of_help_is_no_reason():
    said = "ERROR: unexpected error - no such thing\n\nHaving any troubles? Hit us up, we are always happy to help!\n"
    assert last_words(SimpleNamespace(stderr=said, stdout="")) == "ERROR: unexpected error - no such thing"


@pytest.mark.long
def test_a_model_that_neither_cache_nor_remote_brings_is_told_with_the_reason(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nremote = gone\nno_scm = true\n")
    (tmp_path / "dvc.yaml").write_text("stages:\n  rlhf:\n    cmd: 'true'\n    outs: [artifacts/rlhf]\n")
    out = "{path: artifacts/rlhf, hash: md5, md5: 0123456789abcdef0123456789abcdef.dir, size: 1, nfiles: 1}"
    entry = f"    cmd: 'true'\n    outs:\n    - {out}\n"
    (tmp_path / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  rlhf:\n{entry}")
    check = verify._materialised(SimpleNamespace(params={"candidate": "rlhf"}), tmp_path)
    assert (check.ok, "gone" in check.seen, "--retrain" in check.seen) == (False, True, True), check.seen
