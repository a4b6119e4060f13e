"""Workspaces without a pipeline that ran: one whose registry holds what a test puts there, one in which commands can fail."""

import os
import shutil
import subprocess

import pytest

from flows.workspace import Workspace, prepare_environment
from tests.workspaces import ROOT


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A workspace of a module's own, which holds nothing but the database that MLflow makes."""
    workspace = Workspace(tmp_path_factory.mktemp("store"))
    prepare_environment(workspace)
    return workspace


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
