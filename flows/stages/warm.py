"""The warm process, as its callers see it: started beside a flow's first stage, asked over a socket, in flows/cli/warm_server.py.

`sluice repro`, called by the flow, and `sluice stage`, called by DVC as ever, hand their arguments, environment and standard streams over,
and a child that has everything imported does the work in the caller's process group, so that whatever kills the caller's group kills it
too. Without the socket (`dvc repro`) the same commands do their own imports.
"""

import array
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable

from flows.host import processes
from flows.host.workspace import Workspace

LIMIT_S = 3600.0
SERVER = "flows.cli.warm_server"  # the module that runs as the server; its processes are known by that word
VARIABLE = "SLUICE_WARM"  # names the socket, relative to the workspace: socket addresses hold 107 bytes


def start(workspace: Workspace, env: dict[str, str], tasks: Iterable[str]) -> str:
    """Start the server in the background, for a run of these tasks, and return its socket's address; it listens at once."""
    forget(workspace)
    address = f".sluice/warm-{os.getpid()}.sock"
    log = workspace.work / "logs" / "warm.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        processes.start([sys.executable, "-m", SERVER, address, *tasks], workspace.root, env, output.fileno())
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
            if peer(connection) != os.getuid():  # it would be handed this environment
                return None
        except OSError:
            return None
        streams = array.array("i", [0, 1, 2])
        request = json.dumps({"arguments": arguments, "env": dict(os.environ), "cwd": os.getcwd(), "group": os.getpgrp()}).encode()
        connection.sendmsg([len(request).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        connection.sendall(request)
        reply = connection.recv(1)
    return reply[0] if reply else 137


def peer(connection: socket.socket) -> int:
    """The user at the other end, as the kernel knows it."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(user)


def call(workspace: Workspace, arguments: list[str], env: dict[str, str], limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
    """Run `sluice ARGUMENTS` in a process of its own (the warm one where it is up) and return its output. Raises TimeLimitError past it."""
    command = [processes.program("sluice"), *arguments]
    lines: list[str] = []
    code = processes.stream(command, workspace.root, env, lines.append, limit_s)
    return subprocess.CompletedProcess(command, code, "\n".join(lines))
