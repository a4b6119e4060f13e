"""One nano retraining for all tests that look at a finished run."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from flows.host.tracking import make_store
from flows.host.workspace import Workspace, locked, prepare_environment
from tests.workspaces import ROOT, make_workspace, run, snapshot

RUN_WRITES = (
    "params.yaml",
    "dvc.lock",
    "data",
    "metrics",
    "artifacts",
    ".sluice",
    ".work",
    ".dvc/config",
    ".dvc/config.local",
    ".dvc/cache",
)
STATE = [ROOT / name for name in RUN_WRITES]


def pytest_configure(config):
    """One thread a process where tests run in parallel: threads that spin for a core that another has slow both down manifold.

    Ctrl-C is heard even where the tests were started in the background: what they start would ignore it as well.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_sessionstart(session):
    """Remember what a run would write in this checkout: a test has no business there."""
    if not hasattr(session.config, "workerinput"):
        session.config.checkout = snapshot(*STATE)


def pytest_sessionfinish(session):
    """Fail where a test wrote into this checkout."""
    before = getattr(session.config, "checkout", None)
    if before is not None and before != (after := snapshot(*STATE)):
        names = sorted(name for name, _ in before.items() ^ after.items())
        print(f"\nthe tests, or another command meanwhile, changed this checkout: {', '.join(dict.fromkeys(names))}", file=sys.stderr)
        session.exitstatus = 1


SLOW_S = 3600
LONGEST = (  # parallel workers take these files first, a file each: whoever began one last would end long after the others
    "test_crash",  # makes the finished workspace, for which others would wait: those that follow it here do without
    "test_own_data",
    "test_bad_input",
    "test_packages",
    "test_training_stages",
    "test_architectures",
    "test_parts",
    "test_resuming",
    "test_verify",
    "test_preference",
    "test_reinforce",
    "test_validate",
    "test_accepted",
    "test_servers",
    "test_resumed",
    "test_refusals",
    "test_scored_again",
    "test_run",
    "test_pretrained",
)


def pytest_collection_modifyitems(config, items):
    """Fast tests first, but for the longest where others run beside them; what takes minutes alone may take many beside others."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_S))
    parallel = hasattr(config, "workerinput")

    def turn(item):
        name = item.path.stem
        return LONGEST.index(name) - len(LONGEST) if parallel and name in LONGEST else "end_to_end" in item.nodeid

    items.sort(key=turn)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """A file of tests leaves no store to the next one: MLflow puts each that it is given into the environment."""
    if nextitem is None or nextitem.path != item.path:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.pop("MLFLOW_REGISTRY_URI", None)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow database that is migrated, to be copied: making one takes some seconds."""
    workspace = Workspace(tmp_path_factory.mktemp("store"))
    prepare_environment(workspace)
    make_store(workspace)
    return workspace.state / "mlflow.db"


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A workspace in which `sluice run` has taken the nano recipe from data to champion. Read it; copy it to change it.

    first-run.txt holds what the run printed, seconds.txt how long its process lived, status.json what `sluice status --json` said after it.
    Parallel workers share one.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    workspace = shared / "finished" / "sluice"
    with locked(shared / "finished.lock"):
        if not (workspace / "status.json").exists():
            shutil.rmtree(workspace.parent, ignore_errors=True)
            _finish(make_workspace(workspace))
    return workspace


def _finish(workspace: Path) -> None:
    started = time.monotonic()
    done = run(workspace, "sluice", "run")
    (workspace / "seconds.txt").write_text(str(time.monotonic() - started))
    assert done.returncode == 0, done.stdout + done.stderr
    (workspace / "first-run.txt").write_text(done.stdout)
    (workspace / "status.json").write_text(run(workspace, "sluice", "status", "--json").stdout)
