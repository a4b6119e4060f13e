"""A warm process: imports the heavy libraries once and forks a child for each stage.

Importing PyTorch, Transformers, TRL, lm-eval and MLflow takes 10 to 20 s, and a pipeline starts a dozen processes. A flow starts this
server beside its first stage; `sluice stage`, called by DVC as ever, hands its arguments, environment and standard streams over a socket,
and a forked child does the work in the caller's process group, so that whatever kills the caller's group kills it too. Without the socket
(`dvc repro`) the same command does its own imports. Only imports are shared: no thread runs and no device is touched before the fork.
"""

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

from flows import processes
from flows.workspace import Workspace

REGISTER_S = 3600.0
VARIABLE = "SLUICE_WARM"  # names the socket, relative to the workspace: socket addresses hold 107 bytes
MODULES = (  # in the order in which stages need them
    "flows.cli",
    "dvc.repo",
    "scmrepo.git",
    "networkx",  # DVC's graph
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "alembic.command",
    "great_expectations",
    "rensa",
    "transformers.models.llama.modeling_llama",
    "peft",
    "trl.trainer.sft_trainer",
    "trl.trainer.reward_trainer",
    "trl.trainer.grpo_trainer",
    "lm_eval.models.huggingface",
    "lm_eval.evaluator",
    "scipy.stats",
)


def start(workspace: Workspace, env: dict[str, str]) -> str:
    """Start the server in the background and return its socket's address; it listens at once and serves when its imports are done."""
    forget(workspace)
    address = f".sluice/warm-{os.getpid()}.sock"
    log = workspace.work / "logs" / "warm.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        processes.start([sys.executable, "-m", "flows.warm", address], workspace.root, env, output.fileno())
    return address


def forget(workspace: Workspace) -> None:
    """Remove the sockets of servers that are gone; only the holder of the workspace's lock may."""
    for stale in workspace.state.glob("warm-*.sock"):
        stale.unlink(missing_ok=True)


def forward(address: str, arguments: list[str]) -> int | None:
    """Have the server run `sluice ARGUMENTS` in this process's place: its exit code, or None where no server answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
        except OSError:
            return None
        streams = array.array("i", [0, 1, 2])
        request = json.dumps({"arguments": arguments, "env": dict(os.environ), "cwd": os.getcwd(), "group": os.getpgrp()}).encode()
        connection.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        connection.sendall(request)
        reply = connection.recv(1)
    return reply[0] if reply else 137


def serve(address: str) -> None:
    """Listen, import, and fork a child for each request until killed; one forked early does the rest of its imports itself."""
    Path(address).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for module in MODULES:
            __import__(module)
            while select.select([listener], [], [], 0)[0]:  # the first stages need little: they do not wait for all
                _fork(listener)
        gc.freeze()  # what was imported stays shared between the children
        while True:
            _fork(listener)


def _fork(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    if os.fork() == 0:
        listener.close()
        _child(connection)
    connection.close()


def _child(connection: socket.socket) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        header, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(3 * array.array("i").itemsize))
        request = json.loads(_read(connection, int.from_bytes(header, "big")))
        os.setpgid(0, request["group"])
        for target, source in enumerate(array.array("i", ancillary[0][2])):
            os.dup2(source, target)
            os.close(source)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        from flows.cli import run_command

        code = run_command(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        with contextlib.suppress(OSError):
            connection.sendall(bytes([code & 255]))
        os._exit(code)


def _read(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(size)
        if not part:
            raise EOFError("the caller went away")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def call(workspace: Workspace, arguments: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `sluice ARGUMENTS` in a process of its own (the warm one where it is up) and return its output."""
    command = [str(Path(sys.executable).with_name("sluice")), *arguments]
    lines: list[str] = []
    code = processes.stream(command, workspace.root, env, lines.append, REGISTER_S)
    return subprocess.CompletedProcess(command, code, "\n".join(lines))


if __name__ == "__main__":
    serve(sys.argv[1])
