"""The warm process: imports the heavy libraries once and forks a child for each stage.

Importing PyTorch, Transformers, TRL, lm-eval and MLflow takes 10 to 20 s, and a pipeline starts a dozen processes. A flow starts this
server beside its first stage; flows/stages/warm.py asks it. A child runs the command line that it was handed. Only imports are shared: no
thread runs and no device is touched before the fork. What was imported is no garbage: nothing collects any here, where that would take a
fifth of the imports' time, and a child collects its own alone, so that the pages of the rest stay shared.
"""

import array
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.stages.warm import peer

REPRO = (
    "flows.cli.main",
    "dvc.cli.parser",
    "dvc.commands.repro",
    "dvc.repo",
    "scmrepo.git",
    "networkx",
    # What DVC imports when it is at work, in every child: a fifth of a second each.
    "configobj",
    "dulwich.ignore",
    "dulwich.index",
    "dulwich.worktree",
    "dvc.data_cloud",
    "dvc.dirs",
    "dvc.lock",
    "dvc.repo.artifacts",
    "dvc.repo.datasets",
    "dvc.repo.plots",
    "dvc.repo.stage",
    "dvc.rwlock",
    "dvc.scm",
    "fsspec.implementations.memory",
)
HEAVY = (
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
)


def loads(task: str) -> tuple[str, ...] | None:
    """What a task says that its work imports; None where it says nothing: it gets all."""
    found: tuple[str, ...] | None = getattr(importlib.import_module(f"tasks.{task}"), "LOADS", None)
    return found


def serve(address: str, tasks: Sequence[str]) -> None:
    """Listen, import what these tasks need, and fork a child for each request until killed; a request waits for what it needs."""
    gc.disable()
    with socket.socket(socket.AF_UNIX) as listener:
        _bind(listener, Path(address))
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        ready: set[str] = set()
        light = {task: modules for task in tasks if (modules := loads(task)) is not None}
        for name, modules in {"repro": REPRO, **light, "": HEAVY}.items():
            for module in modules:
                __import__(module)
                while select.select([listener], [], [], 0)[0]:
                    _take(listener)
                _fork_ready(listener, ready)
            ready.add(name)
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


Waiting = tuple[socket.socket, dict[str, Any], list[int]]  # the connection, what is asked, the standard streams
_waiting: list[Waiting] = []


def _take(listener: socket.socket) -> None:
    """Read one request: who asks, what for, and its standard streams."""
    connection, _ = listener.accept()
    if peer(connection) != os.getuid():
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
        if ready is not None and _asked(waiting[1]["arguments"]) not in ready:
            continue
        _waiting.remove(waiting)
        if os.fork() == 0:
            gc.freeze()
            gc.enable()
            listener.close()
            for other in _waiting:  # or its caller would wait for the end of this one's output
                _close(other)
            _child(*waiting)
        _close(waiting)


def _asked(arguments: Sequence[str]) -> str:
    """What a request is for: the command `repro`, or the task of a stage."""
    from flows.stages.pipeline import bindings

    command, name, *given = [*arguments, ""]
    return "repro" if command == "repro" else bindings(given).get("task", name.partition("@")[0])


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
        from flows.cli.main import run_command
        from flows.screen import terminal

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


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
