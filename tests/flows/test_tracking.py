"""MLflow's embedded database: whole or absent, whenever the process that makes it is killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.tracking import Tracker
from flows.workspace import Workspace, prepare_environment
from models.errors import Unavailable

ROOT = Path(__file__).parents[2]
MAKE = """
import sys
from pathlib import Path
from flows.tracking import Tracker
from flows.workspace import Workspace, prepare_environment
from models.errors import Unavailable
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


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mssql://ada:hunter2@127.0.0.1:1/mlflow", "No module named 'pyodbc'"),
        ("ftp://ada:hunter2@host", "unsupported URI 'ftp://ada:***@host'"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line_without_its_password(tmp_path, monkeypatch, uri, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    prepare_environment(Workspace(tmp_path))
    with pytest.raises(Unavailable) as failure:
        Tracker(Workspace(tmp_path), "assistant").client  # noqa: B018
    assert said in str(failure.value)
    assert "hunter2" not in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_postgres_is_reached_by_the_driver_that_is_installed(tmp_path, monkeypatch, scheme):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://ada:hunter2@host/mlflow")
    assert Workspace(tmp_path).tracking_uri == "postgresql+psycopg2://ada:hunter2@host/mlflow"
