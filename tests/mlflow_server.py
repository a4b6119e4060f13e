"""A real MLflow server on a port of its own, which tests kill and start again, and a workspace with one small stage to train beside it."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from flows.host import services
from flows.host.workspace import Workspace, wait_until
from tests.workspaces import PROGRAMS, environment, make_workspace

STAGE = """
import time
from pathlib import Path
from tasks.stage import Inputs, Metrics, Outputs, Params, Work


class DrillParams(Params):
    steps: int


class DrillInputs(Inputs):
    pass


class DrillOutputs(Outputs):
    weights: Path


class DrillMetrics(Metrics):
    accuracy: float
    steps: int


def reach(moment):
    Path(f"at-{moment}").touch()
    while not Path("go").exists() and not Path(f"go-{moment}").exists():
        time.sleep(0.01)


def drill(params: DrillParams, inputs: DrillInputs, outputs: DrillOutputs, work: Work) -> DrillMetrics:
    with open("trainings", "a") as trainings:
        trainings.write("one more\\n")
    reach("start")
    for step in range(1, params.steps + 1):
        work.progress(step, params.steps, {"loss": 1 / step, "accuracy": step / 1000})
        if 2 * step == params.steps:
            reach("middle")
    reach("end")
    outputs.weights.write_text("trained")
    return DrillMetrics(accuracy=0.75, steps=params.steps)
"""
DVC_YAML = """
stages:
  drill:
    cmd: sluice stage drill
    deps: [tasks/drill.py]
    params: [drill]
    outs: [artifacts/weights]
    metrics: [{metrics/drill.json: {cache: false}}]
    meta: {pool: gpu, timeout_s: 600, retries: 1}
"""


class Server:
    """`mlflow server` on the embedded store of a folder; a copy of the database `store`, where one is given."""

    def __init__(self, folder: Path, store: Path | None = None) -> None:
        self.workspace, self.port = Workspace(folder), services.free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        if store is not None:
            self.workspace.state.mkdir(parents=True)
            shutil.copy(store, self.workspace.state / "mlflow.db")

    def start(self) -> None:
        log = self.workspace.state / "server.log"
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = services.commands(self.workspace, {"prefect": 0, "mlflow": self.port})["mlflow"]
        with log.open("a") as output:
            self.process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
        wait_until(lambda: services.answers(f"{self.uri}/health"), 90, f"no MLflow: see {log}")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def drill_workspace(folder: Path, store: Path, steps: int = 40) -> Path:
    """A workspace, with a copy of the MLflow database `store`, whose only stage waits at its moments for the file `go`, or `go-MOMENT`.

    The moments are `start`, `middle` and `end`, when all is trained and nothing written; `trainings` has a line for each training.
    """
    workspace = make_workspace(folder, recipe="")
    (workspace / ".sluice").mkdir()
    shutil.copy(store, workspace / ".sluice" / "mlflow.db")
    (workspace / "tasks" / "drill.py").write_text(STAGE)
    (workspace / "dvc.yaml").write_text(DVC_YAML)
    (workspace / "params.yaml").write_text(f"model: assistant\ndrill:\n  steps: {steps}\n")
    return workspace


def begin(workspace: Path, *command: str, **extra: str) -> subprocess.Popen[str]:
    """Start a program of the environment in the workspace."""
    words, env = [str(PROGRAMS / command[0]), *command[1:]], environment(workspace, **extra)
    return subprocess.Popen(words, cwd=workspace, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)
