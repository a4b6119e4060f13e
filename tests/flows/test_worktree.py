"""The worktree in which a version is made again."""

import subprocess
from types import SimpleNamespace

import pytest

from flows.host.processes import program
from flows.registry import verify
from tests.workspaces import git, make_repository

pytestmark = pytest.mark.long


def test_a_worktree_reads_the_cache_of_a_workspace_whose_path_is_not_ascii(tmp_path):
    root, scratch = tmp_path / "a ü's 日", tmp_path / "scratch"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text("[core]\nanalytics = false\n")
    scratch.mkdir()
    make_repository(root)
    with verify._worktree(root, SimpleNamespace(version="1"), git(root, "rev-parse", "HEAD"), scratch) as tree:
        assert (scratch / "shared").readlink() == root / ".dvc" / "cache"
        seen = subprocess.run([program("dvc"), "cache", "dir"], cwd=tree, capture_output=True, text=True, check=True).stdout.strip()
        assert seen == str(scratch / "shared")


def test_an_offer_of_help_is_no_reason():
    said = "ERROR: unexpected error - no such thing\n\nHaving any troubles? Hit us up, we are always happy to help!\n"
    assert verify._last(SimpleNamespace(stderr=said, stdout="")) == "ERROR: unexpected error - no such thing"


def test_a_model_that_neither_cache_nor_remote_brings_is_told_with_the_reason(tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nremote = gone\nno_scm = true\n")
    (tmp_path / "dvc.yaml").write_text("stages:\n  rlhf:\n    cmd: 'true'\n    outs: [artifacts/rlhf]\n")
    out = "{path: artifacts/rlhf, hash: md5, md5: 0123456789abcdef0123456789abcdef.dir, size: 1, nfiles: 1}"
    entry = f"    cmd: 'true'\n    outs:\n    - {out}\n"
    (tmp_path / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  rlhf:\n{entry}")
    check = verify._materialised(SimpleNamespace(params={"candidate": "rlhf"}), tmp_path)
    assert (check.ok, "gone" in check.seen, "--retrain" in check.seen) == (False, True, True), check.seen
