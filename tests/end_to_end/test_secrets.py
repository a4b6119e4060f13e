"""No secret is shown or kept: a retraining, a refusal and failures against servers that ask for passwords; then everything is read."""

import base64
import json
from urllib.parse import quote, urlsplit

import pytest

from tests.end_to_end.test_servers import new_learning_rate
from tests.proxies import proxy
from tests.workspaces import make_workspace, run

MLFLOW, PREFECT = """ml@pass/w:rd%21"f'x""", "Pr3f@ct/s:cr%t"
OTHERS = {
    "HF_TOKEN": "hf_plantedplantedplantedplanted",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDPLANTED12",
    "AWS_SECRET_ACCESS_KEY": "aws/planted+secret=key",
    "OPENAI_API_KEY": "sk-planted-openai-key",
}
RAISE = """
    import os

    raise RuntimeError("cannot reach " + os.environ["PLANTED"] + " with " + os.environ["AWS_SECRET_ACCESS_KEY"])
"""


def forms():
    """Each secret as it may be written: as it is, percent-encoded, in JSON, in a header."""
    for secret in (MLFLOW, PREFECT, *OTHERS.values()):
        yield from {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    for pair in (f"ada:{MLFLOW}", f"admin:{PREFECT}"):
        yield base64.b64encode(pair.encode()).decode()


def assert_none_is_in(name, content):
    found = [form for form in forms() if form.encode() in content]
    assert not found, f"{name} holds {found}: …{content[max(0, content.index(found[0].encode()) - 300) :][:500]!r}"


class Team:
    """A workspace whose servers ask for passwords, and everything that commands in it have said."""

    def __init__(self, workspace, urls, address):
        self.workspace = workspace
        self.addresses = {
            "MLFLOW_TRACKING_URI": f"http://ada:{quote(MLFLOW, safe='')}@{address}",
            "PREFECT_API_URL": f"http://admin:{quote(PREFECT, safe='')}@{urlsplit(urls['prefect']).netloc}/api",
        }

    def sluice(self, *command, code=0, **extra):
        env = {**OTHERS, **self.addresses, "PLANTED": self.addresses["MLFLOW_TRACKING_URI"], **extra}
        done = run(self.workspace, "sluice", *command, **env)
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        said = done.stdout + done.stderr
        assert "Traceback" not in said
        assert_none_is_in(f"what {command} printed", said.encode())
        return said


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    workspace = make_workspace(tmp_path_factory.mktemp("secrets") / "sluice")
    try:
        done = run(workspace, "sluice", "up", PREFECT_SERVER_API_AUTH_STRING=f"admin:{PREFECT}")
        assert done.returncode == 0, done.stderr
        urls = dict(line.split() for line in done.stdout.splitlines())
        forbidden = []

        def behave(method, path):
            return (403, "Permission denied") if method == "POST" and any(part in path for part in forbidden) else None

        with proxy(urlsplit(urls["mlflow"]).netloc, f"ada:{MLFLOW}", behave) as server:
            found = Team(workspace, urls, server.address)
            found.forbidden = forbidden
            yield found
    finally:
        run(workspace, "sluice", "down")


@pytest.mark.slow
def test_no_secret_is_printed_logged_tagged_or_kept(team):
    workspace, params = team.workspace, team.workspace / "params.yaml"
    team.sluice("doctor")
    team.sluice("run")
    for command in (["status"], ["history"], ["lineage", "1"], ["lineage", "1", "--json"], ["status", "--json"], ["audit"], ["stages"]):
        team.sluice(*command)
    params.write_text(params.read_text().replace("require: non-inferior", "require: better"))
    new_learning_rate(workspace)
    team.sluice("run", code=3)
    team.sluice("promote", "2", "--reason", f"seen at {team.addresses['MLFLOW_TRACKING_URI']}, {OTHERS['HF_TOKEN']}")

    wrong = {"MLFLOW_TRACKING_URI": team.addresses["MLFLOW_TRACKING_URI"].replace("ada:", "eve:")}
    said = team.sluice("run", code=1, **wrong)
    assert "does not let user eve in (401" in said
    assert "does not let user eve in (401" in team.sluice("history", code=1, **wrong)
    said = team.sluice("run", code=1, PREFECT_API_URL=team.addresses["PREFECT_API_URL"].replace("admin:", "eve:"))
    assert "Prefect" in said
    assert "does not let user eve in (401" in said
    team.forbidden.append("/runs/create")
    new_learning_rate(workspace)
    assert "forbids this to user ada (403" in team.sluice("run", code=1)
    team.forbidden.clear()
    stage = workspace / "tasks" / "rlhf.py"
    stage.write_text(stage.read_text().replace("    training.make_repeatable(params.seed)\n", RAISE, 1))
    assert "cannot reach http://" in team.sluice("run", code=1)
    team.sluice("stage", "rlhf", code=1)
    team.sluice("history", code=1, MLFLOW_TRACKING_URI=f"https://ada:{quote(MLFLOW, safe='')}@127.0.0.1:9")

    read = [
        path
        for part in (".work", ".sluice", "metrics", "artifacts", ".dvc/tmp")
        for path in (workspace / part).rglob("*")
        if path.is_file()
    ]
    assert any(path.name == "mlflow.db" for path in read)
    assert any(path.name == "prefect.db" for path in read)
    assert any(path.name == "unforeseen.log" for path in read)
    for path in read:
        assert_none_is_in(path, path.read_bytes())
