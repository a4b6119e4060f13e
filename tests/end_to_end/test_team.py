"""A team's servers, as processes: a retraining of its deployment on a worker in a clone of its own, and what outlives a stop and a kill."""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import pytest

from flows.host.workspace import Workspace, wait_until
from flows.team import servers
from models.core.errors import UserError
from tests.workspaces import make_workspace, run

pytestmark = [pytest.mark.slow, pytest.mark.server]
PATIENCE_S = 300


@pytest.fixture(scope="module")
def team():
    """Servers of a small workspace; Postgres, as another user, cannot enter pytest's folders."""
    try:
        servers.postgres(), servers.weed()
    except UserError as lacking:
        pytest.skip(str(lacking))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = make_workspace(Path(folder) / "sluice")
        found = servers.Team(Workspace(root))
        try:
            done = run(root, "sluice", "team", "up")
            assert done.returncode == 0, done.stderr
            yield found
        finally:
            run(root, "sluice", "team", "down")


def joined(team):
    """The variables that env.sh exports, as a shell sees them."""
    names = "|".join(team.environment())
    done = subprocess.run(["sh", "-c", f". {team.folder / 'env.sh'}; env"], capture_output=True, text=True, check=True)
    return dict(re.findall(f"^({names})=(.*)$", done.stdout, re.MULTILINE))


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def assert_runs(team):
    assert team.states() == dict.fromkeys(team.programs, "RUNNING")


def flow_run_ended(team, deployment):
    root, env = team.workspace.root, joined(team)
    done = run(root, "prefect", "deployment", "run", deployment, "--watch", **env)
    return done.returncode == 0, done.stdout + done.stderr


def test_nobody_without_a_login_is_let_in(team):
    assert_runs(team)
    assert status_of(f"{team.url('prefect')}/api/work_pools/filter") == 401
    assert status_of(f"{team.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1") == 401
    assert status_of(f"{team.url('s3')}/mlflow") == 403
    env = joined(team)
    assert env == team.environment()
    mine = boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    mine.put_object(Bucket="dvc", Key="mine", Body=b"x")
    with pytest.raises(mine.exceptions.ClientError, match="AccessDenied"):
        mine.put_object(Bucket="mlflow", Key="mine", Body=b"x")


def test_no_secret_is_on_a_command_line_or_in_a_file_of_others(team):
    known = [*team.known["secrets"].values(), *(word for pair in team.known["keys"].values() for word in pair)]
    lines = b"".join(
        Path(f"/proc/{pid}/cmdline").read_bytes() for pid in os.listdir("/proc") if pid.isdigit() and Path(f"/proc/{pid}/cmdline").exists()
    )
    assert not [secret for secret in known if secret.encode() in lines]
    for path in team.folder.glob("*"):
        if path.is_file() and path.stat().st_mode & 0o077:
            text = path.read_text(errors="replace")
            assert not [secret for secret in known if secret in text], path


def test_a_deployment_retrains_in_the_worker_s_clone_and_its_champion_outlives_all_servers(team):
    root, env = team.workspace.root, joined(team)
    made = run(root, "prefect", "--no-prompt", "deploy", "--all", **env)
    assert made.returncode == 0, made.stdout + made.stderr
    ended, said = flow_run_ended(team, "retrain/on-demand")
    assert ended, said
    clone = team.clone("cpu")
    assert (clone / "artifacts" / "rlhf" / "model.safetensors").is_file()
    assert not (root / "artifacts").exists(), "the clone of the person has no part in it"
    pushed = run(clone, "dvc", "push", **env)
    assert pushed.returncode == 0, pushed.stderr
    champion = status(root, env)
    assert champion["version"] == "1"
    assert not (root / ".sluice" / "mlflow.db").exists()

    assert run(root, "sluice", "team", "down").stdout == "stopped\n"
    assert team.states() == {}
    assert run(root, "sluice", "team", "up").returncode == 0
    assert_runs(team)
    assert status(root, env) == champion
    other = Path(tempfile.mkdtemp(dir=root.parent)) / "other"
    subprocess.run(["git", "clone", "--quiet", clone, other], check=True)
    (other / "dvc.lock").write_bytes((clone / "dvc.lock").read_bytes())
    (other / ".dvc" / "config.local").write_bytes((clone / ".dvc" / "config.local").read_bytes())
    pulled = run(other, "dvc", "pull", "artifacts/rlhf", **env)
    assert pulled.returncode == 0, pulled.stderr
    assert (other / "artifacts" / "rlhf" / "model.safetensors").read_bytes() == (
        clone / "artifacts" / "rlhf" / "model.safetensors"
    ).read_bytes()


def status(root, env):
    done = run(root, "sluice", "status", "--json", **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["champion"]


@pytest.mark.parametrize("name", ["mlflow", "prefect", "s3", "postgres", "worker-cpu"])
def test_what_is_killed_comes_back_by_itself(team, name):
    pid = int(team._control("pid", name).stdout)
    os.kill(pid, signal.SIGKILL)

    def back():
        return int(team._control("pid", name).stdout) not in (0, pid) and {*team.states().values()} == {"RUNNING"}

    wait_until(back, PATIENCE_S, f"{name} did not come back")
    deadline = time.monotonic() + 60
    while (done := run(team.workspace.root, "sluice", "status", "--json", **joined(team))).returncode:
        assert time.monotonic() < deadline, done.stderr
