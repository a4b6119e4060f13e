"""`sluice doctor`: what this machine offers, and what is missing."""

import os
import shutil
from collections.abc import Callable
from typing import Any

from flows.host import git, web
from flows.host.services import require_prefect
from flows.host.tracking import require_store
from flows.host.workspace import Workspace
from models.core.errors import SluiceError

FREE_GIB = 5


def checks(workspace: Workspace) -> list[dict[str, Any]]:
    """One row a check: name, found, ok, needed (whether a run cannot do without), do (what mends it)."""
    return [_git(workspace), _disk(workspace), _memory(), _sandbox(), _device(), *_servers(workspace)]


def _row(name: str, found: str, ok: bool, needed: bool = False, do: str = "") -> dict[str, Any]:
    return {"name": name, "found": found, "ok": ok, "needed": needed, "do": "" if ok else do}


def _git(workspace: Workspace) -> dict[str, Any]:
    commit = git.commit(workspace.root, ())
    return _row(
        "git", commit or "no commit", bool(commit), do=f"{git.why_no_commit(workspace.root)}; versions record the commit they come from"
    )


def _disk(workspace: Workspace) -> dict[str, Any]:
    if not os.access(workspace.root, os.W_OK):
        do = "work in a clone that this user may write to, on a file system that can be written"
        return _row("disk", f"{workspace.root} cannot be written", False, needed=True, do=do)
    free = shutil.disk_usage(workspace.root).free / 2**30
    return _row(
        "disk", f"{free:.1f} GiB free", free >= FREE_GIB, needed=True, do=f"free at least {FREE_GIB} GiB: 'dvc gc -w' drops unused cache"
    )


def _memory() -> dict[str, Any]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return _row("memory", f"{total:.1f} GiB, {len(os.sched_getaffinity(0))} cores", total >= 4, do="the default recipe needs 4 GiB")


def _sandbox() -> dict[str, Any]:
    from models.sandbox.sandbox import isolation

    found = isolation()
    return _row("sandbox", found.backend or "none", found.backend is not None, do=found.reason)


def _device() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_name()
    else:
        native = any(there for feature, there in torch.cpu.get_capabilities().items() if "bf16" in feature)
        found = f"cpu only, bfloat16 {'native' if native else 'emulated: float32 is faster'}"
    return _row("device", f"{found}, torch {torch.__version__}", True)


def _servers(workspace: Workspace) -> list[dict[str, Any]]:
    return [_server(workspace, "prefect", web.PREFECT, require_prefect), _server(workspace, "mlflow", web.MLFLOW, require_store)]


def _server(workspace: Workspace, name: str, server: web.Server, require: Callable[[str], None]) -> dict[str, Any]:
    """The address that the environment names, and what is wrong with it; the local server's otherwise."""
    given, local = os.environ.get(server.variable), workspace.servers().get(name)
    if not given:
        return _row(name, local["url"] if local else "embedded", True)
    try:
        require(given.rstrip("/"))
    except SluiceError as error:
        return _row(name, web.shown(given), False, needed=True, do=str(error))
    return _row(name, web.shown(given), True)
