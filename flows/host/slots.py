"""Who waits for whom: a stage is at work once in a workspace, a device of the machine trains one model, whichever clone or user it is for.

Two PyTorch processes on two cores take 6 s a step in place of .2; two on one GPU run out of its memory. A device's slot is a lock on an
empty file in a folder that all users of the machine share. It is opened for reading only, never through a link, and nothing in it is
believed: the most that another user can do is to hold it. Order, so that nobody waits in a circle: workspace, stage, device; who holds a
device waits for nothing else, and a flow holds no device, only its stages do.
"""

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flows.host.workspace import Workspace
from models.core.errors import UserError

FOLDERS = ("/run/lock", "/tmp", "/var/tmp")  # the first that all may write to: the same one for everybody
BUSY = "another 'sluice run', or a stage that was started by hand, works in this workspace: wait for it to end, or stop it, then run again"
VARIABLE = "SLUICE_SLOTS"  # another folder: for containers that share a GPU, one that is mounted into each
CARDS = Path("/proc/driver/nvidia/gpus")
Tell = Callable[[str], object]


@contextlib.contextmanager
def slot(workspace: Workspace, pool: str, tell: Tell) -> Iterator[None]:
    """A slot of the pool: the gpu pool has one for each device of the machine, the cpu pool as many as are asked for.

    Where no shared folder can be used, the slot is the workspace's own.
    """
    if pool != "gpu":
        yield
        return
    name, folders = device_name(), shared_folders()
    with contextlib.ExitStack() as stack:
        for path in [folder / f"sluice-{name}.lock" for folder in folders]:
            waits = f"waits for its turn: the {name} of this machine does one thing at a time ('fuser {path}' says whose)"
            with contextlib.suppress(OSError):
                stack.enter_context(_exclusive(path, waits, tell))
                break
        else:
            where = " or ".join(map(str, folders or FOLDERS))
            tell(f"goes on without waiting for other clones of this machine: there can be no lock in {where}")
            stack.enter_context(stage_slot(workspace, f"pool-{pool}", tell))
        yield


@contextlib.contextmanager
def stage_slot(workspace: Workspace, name: str, tell: Tell) -> Iterator[None]:
    """Be the only one who makes a stage's outputs in this workspace; two would write into each other's drafts."""
    path = workspace.lock_file(name.replace("/", "-"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(path, "waits: another process is at work on it in this workspace", tell):
        yield


@contextlib.contextmanager
def beside_no_flow(workspace: Workspace) -> Iterator[None]:
    """Hold the workspace as one of several who may be in it, such as stages that are run by hand; no flow may begin meanwhile.

    Raises UserError where a flow has it. A flow's own stages must not ask: it holds the workspace for as long as they run.
    """
    path = workspace.lock_file("workspace")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{BUSY} (process {file.read().strip() or 'unknown'})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def device_name() -> str:
    """What a training of this process would use: the first GPU that it sees, by its UUID where the driver tells, else the processor."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    known = [uuid for card in sorted(CARDS.glob("*/information")) if (uuid := _uuid(card))]
    if visible in ("", "-1") or not (known or any(Path("/dev").glob("nvidia[0-9]*"))):
        return "processor"
    if visible.isdigit():
        visible = known[int(visible)] if int(visible) < len(known) else f"gpu-{visible}"
    whole = next((uuid for uuid in known if uuid.startswith(visible)), visible)  # CUDA takes the beginning of a UUID for it
    return re.sub("[^A-Za-z0-9-]", "-", whole)


def _uuid(card: Path) -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"GPU UUID:\s*(\S+)", card.read_text(errors="replace"))
        return found[1] if found and "?" not in found[1] else ""
    return ""


def shared_folders() -> list[Path]:
    """Where locks for all of the machine may lie: world-writable, and nobody removes another's file there (the sticky bit)."""
    own = os.environ.get(VARIABLE)
    if own:
        with contextlib.suppress(OSError):
            Path(own).mkdir(parents=True, exist_ok=True)
        return [Path(own)]
    return [path for path in map(Path, FOLDERS) if _is_shared(path)]


def _is_shared(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o1007 == 0o1007
    return False


@contextlib.contextmanager
def _exclusive(path: Path, waits: str, tell: Tell) -> Iterator[None]:
    """Hold an exclusive lock that dies with its process; tell before waiting. Raises OSError where the file cannot be opened safely."""
    file = _lock(path, waits, tell)
    try:
        yield
    finally:
        os.close(file)


def _lock(path: Path, waits: str, tell: Tell) -> int:
    while True:
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(waits)
            fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path, follow_symlinks=False)):
                return file
        os.close(file)  # a cleaner of temporary files took it away meanwhile: another may hold the new one


def _open(path: Path) -> int:
    """The file, opened for reading, made where it is missing. Raises OSError for a link, a pipe, a folder, a file of two names."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    for _ in range(3):
        with contextlib.suppress(FileExistsError, FileNotFoundError, PermissionError):  # another user makes it at this moment
            try:
                file = os.open(path, flags)
            except FileNotFoundError:
                file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
                os.fchmod(file, 0o644)  # whatever the umask: others must be able to open it
            break
        time.sleep(0.05)
    else:
        raise OSError(f"{path} cannot be opened")
    state = os.fstat(file)
    if not stat.S_ISREG(state.st_mode) or state.st_nlink > 1:
        os.close(file)
        raise OSError(f"{path} is no file of its own")
    return file
