"""A warm process: imports the heavy libraries once and forks a child for each stage.

Importing PyTorch, Transformers, TRL, lm-eval and MLflow takes 10 to 20 s, and a pipeline starts a dozen processes. A flow starts this
server beside its first stage; `sluice repro`, called by the flow, and `sluice stage`, called by DVC as ever, hand their arguments,
environment and standard streams over a socket, and a forked child does the work in the caller's process group, so that whatever kills the
caller's group kills it too. Without the socket (`dvc repro`) the same commands do their own imports. Only imports are shared: no thread
runs and no device is touched before the fork.
"""

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flows import processes
from flows.workspace import Workspace

REGISTER_S = 3600.0
VARIABLE = "SLUICE_WARM"  # names the socket, relative to the workspace: socket addresses hold 107 bytes
NEEDS = {  # in the order in which a run comes to them: a command or stage, and what it imports beyond those before it
    "repro": ("flows.cli", "dvc.cli.parser", "dvc.commands.repro", "dvc.repo", "scmrepo.git", "networkx"),
    "sources": (),
    "validate": ("great_expectations",),
    "prepare": ("rensa",),
    "contamination": (),
    "": (  # all others
        "transformers.models.llama.modeling_llama",
        "peft",
        "trl.trainer.sft_trainer",
        "trl.trainer.reward_trainer",
        "trl.trainer.grpo_trainer",
        "lm_eval.models.huggingface",
        "lm_eval.evaluator",
        "scipy.stats",
        "mlflow.store.tracking.sqlalchemy_store",  # to register; stages leave MLflow to the flow
        "mlflow.store.model_registry.sqlalchemy_store",
    ),
}
OPTIONAL = ("validate", "prepare")  # whose imports are worth leaving out where they do not run


def start(workspace: Workspace, env: dict[str, str], stages: Iterable[str]) -> str:
    """Start the server in the background, for a run of these stages, and return its socket's address; it listens at once."""
    forget(workspace)
    address = f".sluice/warm-{os.getpid()}.sock"
    log = workspace.work / "logs" / "warm.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        processes.start([sys.executable, "-m", "flows.warm", address, *stages], workspace.root, env, output.fileno())
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
            if _peer(connection) != os.getuid():  # it would be handed this environment
                return None
        except OSError:
            return None
        streams = array.array("i", [0, 1, 2])
        request = json.dumps({"arguments": arguments, "env": dict(os.environ), "cwd": os.getcwd(), "group": os.getpgrp()}).encode()
        connection.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        connection.sendall(request)
        reply = connection.recv(1)
    return reply[0] if reply else 137


def serve(address: str, stages: Sequence[str]) -> None:
    """Listen, import what these stages need, and fork a child for each request until killed; a request waits for what it needs."""
    with socket.socket(socket.AF_UNIX) as listener:
        _bind(listener, Path(address))
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        ready: set[str] = set()
        for name, modules in NEEDS.items():
            if name in OPTIONAL and name not in stages:
                continue
            for module in modules:
                __import__(module)
                while select.select([listener], [], [], 0)[0]:
                    _take(listener)
                _fork_ready(listener, ready)
            ready.add(name)
        gc.freeze()  # what was imported stays shared between the children
        while True:
            _fork_ready(listener, None)
            _take(listener)


def _bind(listener: socket.socket, place: Path) -> None:
    """Listen where only this user can write, whatever the umask: who speaks to the socket has commands run in this user's name."""
    place.unlink(missing_ok=True)
    mode = place.parent.stat().st_mode
    if mode & 0o022:
        place.parent.chmod(mode & 0o755)
    before = os.umask(0o177)
    try:
        listener.bind(str(place))
    finally:
        os.umask(before)


def _peer(connection: socket.socket) -> int:
    """The user at the other end, as the kernel knows it."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(user)


Waiting = tuple[socket.socket, dict[str, Any], list[int]]  # the connection, what is asked, the standard streams
_waiting: list[Waiting] = []


def _take(listener: socket.socket) -> None:
    """Read one request: who asks, what for, and its standard streams."""
    connection, _ = listener.accept()
    if _peer(connection) != os.getuid():
        connection.close()
        return
    try:
        header, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_SPACE(3 * array.array("i").itemsize))
        request = json.loads(_read(connection, int.from_bytes(header, "big")))
        _waiting.append((connection, request, list(array.array("i", ancillary[0][2]))))
    except (EOFError, OSError, IndexError):  # the caller was killed
        connection.close()


def _fork_ready(listener: socket.socket, ready: set[str] | None) -> None:
    """Fork a child for each waiting request that is `ready`, for all of them where it is None."""
    for waiting in list(_waiting):
        command, name = (waiting[1]["arguments"] + [""])[:2]
        if ready is not None and (command if command == "repro" else name) not in ready:
            continue
        _waiting.remove(waiting)
        if os.fork() == 0:
            listener.close()
            for other in _waiting:  # or its caller would wait for the end of this one's output
                _close(other)
            _child(*waiting)
        _close(waiting)


def _close(waiting: Waiting) -> None:
    connection, _, streams = waiting
    connection.close()
    for stream in streams:
        os.close(stream)


def _child(connection: socket.socket, request: dict[str, Any], streams: list[int]) -> None:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, request["group"])
        for target, source in enumerate(streams):
            os.dup2(source, target)
            os.close(source)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        from flows import terminal
        from flows.cli import run_command

        terminal.prepare_streams()
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


def call(workspace: Workspace, arguments: list[str], env: dict[str, str], limit_s: float = REGISTER_S) -> subprocess.CompletedProcess[str]:
    """Run `sluice ARGUMENTS` in a process of its own (the warm one where it is up) and return its output. Raises TimeLimitError past it."""
    command = [processes.program("sluice"), *arguments]
    lines: list[str] = []
    code = processes.stream(command, workspace.root, env, lines.append, limit_s)
    return subprocess.CompletedProcess(command, code, "\n".join(lines))


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
