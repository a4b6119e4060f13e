"""Workspaces without a pipeline that ran: one whose registry holds what a test puts there, one in which commands can fail."""

import os
import shutil
import signal
import subprocess

import pytest

from flows.host.tracking import PROMOTIONS, Tracker
from flows.host.workspace import Workspace, prepare_environment
from flows.registry.decisions import Registry
from models.core.content import folder_md5
from models.core.files import write_json
from tests.workspaces import ROOT


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A workspace of a module's own, which holds nothing but the database that MLflow makes."""
    workspace = Workspace(tmp_path_factory.mktemp("store"))
    prepare_environment(workspace)
    return workspace


@pytest.fixture
def signals():
    """Those that a stage heeds no more once it publishes are heeded again after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A workspace of the files that commands read, in a repository without a commit; the environment is put back after."""
    folder = tmp_path / "a place with ' quotes, % and #, ü"
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\nanalytics = false\n")
    subprocess.run(["git", "init", "-q", folder], check=True)
    monkeypatch.chdir(folder)
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PREFECT_"))]:
        del os.environ[name]
    yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def registry(store, request):
    """A model of its own for each test, with three versions."""
    found = Registry(Tracker(store, request.node.name))
    run_id = found.tracker.start(PROMOTIONS, "versions", {})
    found.client.create_registered_model(found.name)
    for number in (1, 2, 3):
        source = store.root / request.node.name / str(number)
        write_json(source / "model" / "config.json", {"of": f"{request.node.name} {number}"})
        write_json(source / "MLmodel", {})
        tags = {"sluice.model_md5": folder_md5(source / "model")}
        found.client.create_model_version(found.name, source.as_uri(), run_id, tags=tags)
    found.tracker.end(run_id, "KILLED")
    return found
