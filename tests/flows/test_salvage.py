"""A dvc.lock that a kill cut off at any byte is put right, and one that nobody killed is left alone."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from flows.host.workspace import Workspace
from flows.stages import salvage, warm
from tests import workspaces

ONE = b"schema: '2.0'\nstages:\n  sources:\n    cmd: sluice stage sources\n    outs:\n    - path: artifacts/records\n      md5: 0123\n"
TWO = ONE + b"  validate:\n    cmd: sluice stage validate\n    outs:\n    - path: artifacts/validation.json\n      md5: 4567\n"


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    return Workspace(tmp_path)


def lock(workspace):
    return workspace.root / "dvc.lock"


@pytest.mark.parametrize("bytes_written", range(len(ONE) - 1))
def test_a_lock_cut_off_while_it_was_rewritten_is_the_last_whole_one_again(workspace, bytes_written):
    lock(workspace).write_bytes(ONE)
    salvage.keep(workspace)
    lock(workspace).write_bytes(TWO[:bytes_written])
    assert salvage.mend(workspace)
    assert lock(workspace).read_bytes() == ONE


def test_a_first_lock_that_was_cut_off_goes(workspace):
    salvage.keep(workspace)
    lock(workspace).write_bytes(ONE[:40])
    assert salvage.mend(workspace)
    assert not lock(workspace).exists()


def test_a_whole_lock_with_more_stages_stays(workspace):
    lock(workspace).write_bytes(ONE)
    salvage.keep(workspace)
    lock(workspace).write_bytes(TWO)
    assert salvage.mend(workspace) == []
    assert lock(workspace).read_bytes() == TWO


THREE = TWO + b"  prepare:\n    cmd: sluice stage prepare\n    outs:\n    - path: artifacts/prepared\n      md5: 89ab\n"


def rerun(text, *md5s):
    """The same stages with other outputs."""
    for md5 in md5s:
        text = text.replace(md5, md5[::-1])
    return text


@pytest.mark.parametrize("bytes_written", [0, 10, *(place + 1 for place, byte in enumerate(THREE[:-1]) if byte == ord("\n"))])
def test_a_lock_cut_off_while_an_entry_in_it_was_changed_is_the_last_whole_one_again(workspace, bytes_written):
    lock(workspace).write_bytes(THREE)
    salvage.keep(workspace)
    lock(workspace).write_bytes(rerun(THREE, b"0123")[:bytes_written])
    assert salvage.mend(workspace)
    assert lock(workspace).read_bytes() == THREE
    assert (workspace.state / "dvc.lock.cut").read_bytes() == rerun(THREE, b"0123")[:bytes_written]


@pytest.mark.parametrize(
    "text",
    [
        rerun(TWO, b"0123", b"4567"),  # another branch's, with fewer stages that ran
        TWO.replace(b"validate", b"check"),
        rerun(THREE, b"89ab"),  # written to its end before the kill
        b"schema: '2.0'\nstages:\n  own:\n    cmd: own\n",
        None,
    ],
)
def test_a_whole_lock_of_somebody_elses_stays(workspace, text):
    lock(workspace).write_bytes(THREE)
    salvage.keep(workspace)
    lock(workspace).unlink() if text is None else lock(workspace).write_bytes(text)
    assert salvage.mend(workspace) == []
    assert (lock(workspace).read_bytes() if lock(workspace).exists() else None) == text


def test_after_a_killed_run_the_lock_of_the_branch_that_was_checked_out_stays(workspace):
    git = partial(workspaces.git, workspace.root)
    git("init", "-q", "-b", "older", ".")
    for branch, text in (("older", ONE), ("newer", THREE)):
        git("checkout", "-q", "-B", branch)
        lock(workspace).write_bytes(text)
        git("add", "dvc.lock")
        git("commit", "-qm", branch)
    salvage.keep(workspace)  # and killed
    git("checkout", "-q", "older")  # the beginning of what was kept, byte for byte
    assert salvage.mend(workspace) == []
    assert lock(workspace).read_bytes() == ONE


def test_a_half_written_lock_is_never_kept(workspace):
    lock(workspace).write_bytes(ONE)
    salvage.keep(workspace)
    lock(workspace).write_bytes(TWO[:-20])
    salvage.keep(workspace)
    salvage.mend(workspace)
    assert lock(workspace).read_bytes() == ONE


def test_after_a_run_that_ended_by_itself_nothing_is_touched(workspace):
    lock(workspace).write_bytes(ONE)
    salvage.keep(workspace)
    salvage.forget(workspace)
    lock(workspace).write_bytes(b"somebody's own")
    assert salvage.mend(workspace) == []
    assert lock(workspace).read_bytes() == b"somebody's own"


def test_the_table_of_running_commands_goes_where_none_of_them_runs(workspace):
    table = workspace.root / ".dvc" / "tmp" / "rwlock"
    for text in ('{"read": {', json.dumps({"read": {}, "write": {"a": {"pid": 1, "cmd": "dvc repro"}}})):
        salvage.keep(workspace)
        table.write_text(text)
        salvage.mend(workspace)
        assert not table.exists()


@pytest.mark.parametrize("word", ["dvc", warm.SERVER])
def test_the_table_stays_while_a_dvc_command_runs(workspace, word):
    table = workspace.root / ".dvc" / "tmp" / "rwlock"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", word]) as running:
        while word.encode() not in Path(f"/proc/{running.pid}/cmdline").read_bytes():  # empty for a moment while it starts
            pass
        salvage.keep(workspace)
        table.write_text(json.dumps({"read": {"a": [{"pid": running.pid, "cmd": "dvc repro"}]}, "write": {}}))
        salvage.mend(workspace)
        assert table.exists()
        running.kill()
