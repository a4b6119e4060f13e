"""The local Prefect and MLflow servers: started for good by `sluice up`, found by every run, or started for one run alone."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path

from flows.host import processes, web
from flows.host.tracking import make_store
from flows.host.workspace import Workspace, locked, start_time, wait_until
from models.core.errors import SluiceError, Unavailable
from models.core.files import write_json

HOST = "127.0.0.1"
PREFERRED = {"prefect": 4200, "mlflow": 5000}
OWN_API = "SLUICE_OWN_PREFECT_API_URL"  # the address of a server that was started for this run alone
START_S = 90.0  # a first start migrates an empty database


def commands(workspace: Workspace, port: dict[str, int]) -> dict[str, list[str]]:
    """The command of each server."""
    programs = Path(sys.executable).parent
    listen = {name: ["--host", HOST, "--port", str(number)] for name, number in port.items()}
    store = ["--backend-store-uri", workspace.embedded_store]
    artifacts = ["--default-artifact-root", (workspace.state / "mlartifacts").as_uri(), "--no-serve-artifacts"]
    return {
        "prefect": [str(programs / "prefect"), "server", "start", *listen["prefect"]],
        "mlflow": [str(programs / "mlflow"), "server", *store, *artifacts, *listen["mlflow"], "--workers", "1"],
    }


def health_url(name: str, base: str) -> str:
    """The address that answers once the server is up."""
    return f"{base}/api/health" if name == "prefect" else f"{base}/health"


def answers(url: str) -> bool:
    """Whether a GET of `url`, of a server of ours, succeeds."""
    try:
        web.PREFECT.get(url, 2)
        return True
    except (OSError, HTTPException):
        return False


def free_port(preferred: int = 0) -> int:
    """`preferred` where it is free, else any free port of the loopback interface."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    raise Unavailable(f"no port is free on {HOST}: stop something that listens, then try again")


def up(workspace: Workspace) -> dict[str, str]:
    """Start what is not running yet and return the address of each page; both outlive this process."""
    make_store(workspace)
    with locked(workspace.lock_file("servers")):
        running = workspace.servers()
        ports = {name: free_port(port) for name, port in PREFERRED.items()}
        for name, command in commands(workspace, ports).items():
            if name not in running:
                child = _detach(workspace, name, command)
                running[name] = {"pid": child.pid, "started": start_time(child.pid), "url": f"http://{HOST}:{ports[name]}"}
                write_json(workspace.state / "servers.json", running)
        for name, server in running.items():
            log = workspace.work / "logs" / f"{name}-server.log"
            wait_until(partial(_is_up, workspace, name), START_S, f"{name} does not answer at {server['url']}: see {log}")
    return {name: server["url"] for name, server in running.items()}


def _is_up(workspace: Workspace, name: str) -> bool:
    """Whether this workspace's own server answers: another workspace's may have taken the port first."""
    server = workspace.servers().get(name)
    return server is not None and answers(health_url(name, server["url"]))


def _detach(workspace: Workspace, name: str, command: list[str]) -> subprocess.Popen[bytes]:
    log = workspace.work / "logs" / f"{name}-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        return subprocess.Popen(command, cwd=workspace.root, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def down(workspace: Workspace) -> list[str]:
    """Stop the servers that `up` started, and all their workers; return their names."""
    with locked(workspace.lock_file("servers")):
        running = workspace.servers()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for server in running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server["pid"], sign)
            deadline = time.monotonic() + 5
            while sign == signal.SIGTERM and workspace.servers() and time.monotonic() < deadline:
                time.sleep(0.1)
        (workspace.state / "servers.json").unlink(missing_ok=True)
    return sorted(running)


@dataclass(frozen=True)
class PrefectApi:
    """A Prefect server's API, and where to read why it does not answer."""

    url: str
    log: Path

    def answers(self) -> bool:
        return answers(f"{self.url}/health")

    def wait(self) -> None:
        """Return once it answers. Raises Unavailable after START_S."""
        wait_until(self.answers, START_S, f"this run's Prefect server did not start: see {self.log}")


def shared_api(workspace: Workspace) -> str | None:
    """The Prefect API that other processes use too: the one named in PREFECT_API_URL, or the local server's; never this run's own."""
    local = workspace.servers().get("prefect")
    url = os.environ.get("PREFECT_API_URL", "").strip().rstrip("/")
    if url and url != os.environ.get(OWN_API):
        return url
    return f"{local['url']}/api" if local else None


def no_prefect(url: str, error: Exception) -> SluiceError:
    """The one line for a Prefect server that does not answer, or refuses."""
    return web.PREFECT.failure(url, error)


def require_prefect(url: str) -> None:
    """Raise, in one line, what is wrong with the Prefect server at `url`: its health is told to anybody, its version to those it knows."""
    web.PREFECT.check(url)
    try:
        json.loads(web.PREFECT.get(f"{url}/health"))
        json.loads(web.PREFECT.get(f"{url}/admin/version"))
    except (OSError, HTTPException, ValueError) as error:
        if getattr(error, "url", "").endswith("/version") and getattr(error, "code", 0) == 404:
            return  # Prefect Cloud tells none
        raise no_prefect(url, error) from None


@contextlib.contextmanager
def prefect_api(workspace: Workspace) -> Iterator[PrefectApi]:
    """The Prefect API to use, in PREFECT_API_URL too: the one named there, else the local server, else one started for this run alone.

    The last starts in the background, and keeps its records where `sluice up` finds them. Enter before Prefect is imported.
    Raises Unavailable where PREFECT_API_URL names a server that does not answer.
    """
    local = workspace.servers().get("prefect")
    url = os.environ.get("PREFECT_API_URL", "").strip() or (f"{local['url']}/api" if local else None)
    log = workspace.work / "logs" / "prefect-server.log"
    if url:
        api = PrefectApi(url.rstrip("/"), log)
        require_prefect(api.url)
        os.environ["PREFECT_API_URL"] = url
        yield api
        return
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        command = commands(workspace, {"prefect": port, "mlflow": 0})["prefect"]
        child = processes.start(command, workspace.root, dict(os.environ), output.fileno(), spared=True)
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"  # not before: the server must not take itself for a client
    os.environ[OWN_API] = os.environ["PREFECT_API_URL"]
    try:
        yield PrefectApi(os.environ["PREFECT_API_URL"], log)
    finally:
        processes.stop(child, grace_s=10)
