"""One nano retraining for all tests that look at a finished run."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.workspaces import make_workspace, run


def pytest_collection_modifyitems(items):
    """Fast tests first."""
    items.sort(key=lambda item: "end_to_end" in item.nodeid)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A workspace in which `sluice run` has taken the nano recipe from data to champion. Read it; copy it to change it.

    first-run.txt holds what the run printed, seconds.txt how long its process lived, status.json what `sluice status --json` said after it.
    """
    workspace = make_workspace(tmp_path_factory.mktemp("finished") / "sluice")
    started = time.monotonic()
    done = run(workspace, "sluice", "run")
    (workspace / "seconds.txt").write_text(str(time.monotonic() - started))
    assert done.returncode == 0, done.stdout + done.stderr
    (workspace / "first-run.txt").write_text(done.stdout)
    (workspace / "status.json").write_text(run(workspace, "sluice", "status", "--json").stdout)
    return workspace
