"""MLflow's embedded database: whole or absent, whenever the process that makes it is killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.tracking import Tracker
from flows.workspace import Workspace, prepare_environment

ROOT = Path(__file__).parents[2]
MAKE = """
import sys
from pathlib import Path
from flows.tracking import Tracker
from flows.workspace import Workspace, prepare_environment
workspace = Workspace(Path(sys.argv[1]))
prepare_environment(workspace)
Tracker(workspace, "assistant").client
"""


@pytest.mark.parametrize("bytes_written", [50_000, 300_000])
def test_a_database_whose_first_migration_was_killed_is_made_anew(tmp_path, monkeypatch, bytes_written):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow leaves there what was used last
    state = tmp_path / ".sluice"
    child = subprocess.Popen([sys.executable, "-c", MAKE, str(tmp_path)], cwd=ROOT)
    draft = state / "mlflow.draft"
    deadline = time.monotonic() + 60
    while child.poll() is None and not (draft.exists() and draft.stat().st_size >= bytes_written) and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it ended before its database was seen half-made"
    assert not (state / "mlflow.db").exists()
    prepare_environment(Workspace(tmp_path))
    tracker = Tracker(Workspace(tmp_path), "assistant")
    tracker.end(tracker.start("pipeline", "first", {}), "FINISHED")
    assert [path.name for path in state.glob("mlflow*")] == ["mlflow.db"]
