"""MLflow's embedded database: whole or absent, whenever the process that makes it is killed. Other stores: Postgres, and what is none."""

import contextlib
import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from flows.host.services import free_port
from flows.host.tracking import PROMOTIONS, Tracker
from flows.host.workspace import Workspace, prepare_environment
from flows.team import servers
from models.core.errors import Unavailable, UserError

ROOT = Path(__file__).parents[2]
MAKE = """
import sys
from pathlib import Path
from flows.host.tracking import Tracker
from flows.host.workspace import Workspace, prepare_environment
from models.core.errors import Unavailable
workspace = Workspace(Path(sys.argv[1]))
prepare_environment(workspace)
Tracker(workspace, "assistant").client
"""


@pytest.mark.long
@pytest.mark.parametrize("bytes_written", [50_000, pytest.param(300_000, marks=pytest.mark.slow)])
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
        ("ftp://ada:hunter2@host", "MLFLOW_TRACKING_URI is 'ftp://ada:***@host': must be http://HOST:PORT"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_line_without_its_password(tmp_path, monkeypatch, uri, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)
    prepare_environment(Workspace(tmp_path))
    with pytest.raises((Unavailable, UserError)) as failure:
        Tracker(Workspace(tmp_path), "assistant").client  # noqa: B018
    assert said in str(failure.value)
    assert "hunter2" not in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_postgres_is_reached_by_the_driver_that_is_installed(tmp_path, monkeypatch, scheme):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://ada:hunter2@host/mlflow")
    assert Workspace(tmp_path).tracking_uri == "postgresql+psycopg2://ada:hunter2@host/mlflow"


@contextlib.contextmanager
def postgres(folder):
    """A real server of its own in `folder`: yields its address. It refuses to run as root, so it runs as whom it was installed for."""
    try:
        programs = servers.postgres()
    except UserError as lacking:
        pytest.skip(str(lacking))
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.chown(folder, user)
    port = free_port()

    def call(program, *words):
        subprocess.run([programs / program, "-D", folder / "data", *words], cwd=folder, user=user, check=True, stdout=subprocess.DEVNULL)

    call("initdb", "-U", "ada", "--auth=trust", "--no-sync")
    call("pg_ctl", "-w", "-l", folder / "log", "-o", f"-p {port} -k {folder} -c fsync=off", "start")
    try:
        yield f"postgresql://ada:hunter2@127.0.0.1:{port}/postgres"
    finally:
        call("pg_ctl", "-m", "immediate", "stop")


@pytest.mark.server
def test_runs_are_kept_in_a_real_postgres_and_one_that_went_down_is_one_line(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory() as folder:  # another user's: pytest's own folders are closed to it
        Path(folder).chmod(0o755)
        with postgres(Path(folder) / "server") as uri:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            prepare_environment(Workspace(tmp_path))
            tracker = Tracker(Workspace(tmp_path), "assistant")
            tracker.end(tracker.start("pipeline", "first", {}), "FINISHED")
            assert tracker.client.search_runs([tracker.experiment_id("pipeline")])[0].info.run_name == "first"
            assert not (tmp_path / ".sluice" / "mlflow.db").exists()
    with pytest.raises(Unavailable, match=r"does not answer .*Connection refused") as failure:
        Tracker(Workspace(tmp_path), "assistant").client  # noqa: B018
    assert "hunter2" not in str(failure.value)


def test_a_workspace_s_path_may_hold_what_sql_reads_otherwise(tmp_path, monkeypatch):
    for variable in ("MLFLOW_TRACKING_URI", "_MLFLOW_SERVER_ARTIFACT_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    workspace = Workspace(tmp_path / 'it\'s "quoted" :a')
    prepare_environment(workspace)
    tracker = Tracker(workspace, "assistant")
    tracker.end(tracker.start("pipeline", "first", {}), "FINISHED")
    assert (workspace.state / "mlflow.db").stat().st_size > 100_000


def test_a_folder_that_is_full_is_told_as_that_and_not_as_a_fault_of_mlflow(registry, tmp_path, monkeypatch):
    tracker = registry.tracker
    run_id = tracker.start(PROMOTIONS, "large", {})
    (tmp_path / "large").write_bytes(bytes(1 << 17))
    tracker.client.log_artifact(run_id, str(tmp_path / "large"), "evidence")
    tracker.end(run_id, "KILLED")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = Path(tempfile.mkdtemp())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(Unavailable, match=f"^{folder} cannot be written .* TMPDIR"):
            tracker.fetch(run_id, "evidence", folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tracker.fetch(run_id, "evidence", folder) / "large").stat().st_size == 1 << 17
