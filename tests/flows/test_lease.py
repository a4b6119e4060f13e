"""One writer among all that share a Prefect server: real server, killed holders, a server that restarts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.host import lease, services
from flows.host.workspace import Workspace, prepare_environment, wait_until

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from flows.host import lease
with lease.acquired("registry", sys.argv[1]):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("lease"))
    before = dict(os.environ)
    prepare_environment(workspace)
    yield workspace, f"{services.up(workspace)['prefect']}/api"
    services.down(workspace)
    os.environ.clear()
    os.environ.update(before)


def holder(api, seconds):
    child = subprocess.Popen([sys.executable, "-c", HOLD, api, str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    return child


@pytest.mark.slow
def test_a_second_writer_waits_for_the_first(server):
    _, api = server
    with holder(api, 5):
        started = time.monotonic()
        with lease.acquired("registry", api):
            assert time.monotonic() - started > 2


@pytest.mark.slow
def test_a_killed_holder_loses_its_lease_even_if_the_server_restarts_meanwhile(server):
    workspace, api = server
    child = holder(api, 1000)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    services.down(workspace)
    api = f"{services.up(workspace)['prefect']}/api"  # another port where somebody took the old one
    wait_until(lambda: services.answers(f"{api}/health"), 60, "no server")
    with lease.acquired("registry", api):
        pass
