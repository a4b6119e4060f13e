"""Commands that read or move versions, signalled at work: each clears up, and leaves a registry that is as its record says."""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from flows.host.tracking import Tracker
from flows.host.workspace import Workspace, prepare_environment
from flows.registry.decisions import Registry
from tests.versions import add_version
from tests.workspaces import PROGRAMS, ROOT, call, environment, git, make_repository

pytestmark = pytest.mark.long
CODES = {signal.SIGINT: (130, -2), signal.SIGTERM: (143, -15)}  # the second where the second signal meets a command that is over


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, empty_store):
    """A workspace whose registry has two versions, the first of them champion."""
    root = tmp_path_factory.mktemp("signals") / "workspace"
    (root / ".dvc").mkdir(parents=True)
    (root / ".sluice").mkdir()
    (root / ".dvc" / "config").write_text("[core]\nanalytics = false\n")
    (root / ".gitignore").write_text("/.sluice/\n/.dvc/tmp/\n/.work/\n")
    for name in (".dvc/.gitignore", "dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root / name)
    shutil.copy(empty_store, root / ".sluice" / "mlflow.db")
    make_repository(root)
    before = dict(os.environ)
    prepare_environment(Workspace(root))
    registry = Registry(Tracker(Workspace(root), "assistant"))
    for score in (0.0, 1.0):
        add_version(registry, {"q1": 1.0, "q2": score})
    registry.promote("1", None, "promote", "first")
    os.environ.clear()
    os.environ.update(before)
    return root


SIGNALLED = [(words, sign) for words in ("lineage 1", "diff 1 2", "audit", "promote 2") for sign in CODES]
QUICK = [("diff 1 2", signal.SIGINT), ("promote 2", signal.SIGTERM)]


@pytest.mark.parametrize(("words", "sign"), [one if one in QUICK else pytest.param(*one, marks=pytest.mark.slow) for one in SIGNALLED])
def test_a_command_that_is_signalled_twice_while_it_has_fetched_files_leaves_none(workspace, tmp_path, words, sign):
    scratch, turn = tmp_path / "scratch", random.Random(f"{words} {sign}")
    scratch.mkdir()
    program = subprocess.Popen(
        [PROGRAMS / "sluice", *words.split()],
        cwd=workspace,
        env=environment(ROOT, TMPDIR=str(scratch)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while program.poll() is None and not any(scratch.iterdir()):
        time.sleep(0.0005)
    for pause in (turn.uniform(0.005, 0.02), turn.uniform(0, 0.1)):  # not in the moment between the folder and Python's note of it
        time.sleep(pause)
        program.send_signal(sign)
    _, told = program.communicate(timeout=60)
    assert program.returncode in CODES[sign], told
    assert ("Traceback" in told, len(told.splitlines())) == (False, sign == signal.SIGINT), told
    assert list(scratch.iterdir()) == []
    assert git(workspace, "status", "--porcelain") == ""
    audited = call(workspace, "audit")
    assert audited.returncode == 0, audited.stdout + audited.stderr
