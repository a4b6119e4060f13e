"""The workspace: where it is, where its parts lie, its locks, and the environment that every process of it shares."""

import contextlib
import fcntl
import importlib.util
import logging
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.host import failures, masking, web
from models.core.errors import Unavailable, UserError
from models.core.files import read_json

UNSUITABLE = re.compile("[?\\x00-\\x1f\\x7f\\ud800-\\udfff]")  # the last: bytes that are no UTF-8
OPEN_FILES = 256  # a run holds some 30 beside its servers and children, which hold as many each; no limit is -1
LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPT_OUTS = {
    # No tool may phone home: each one's own switch, and the common one.
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
DEFAULTS = {
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",  # leases outlive the server
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a missing server is said in seconds, not in minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes, for evaluations by other services' models
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # bars of libraries; stages say how far they are in lines
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for a GPU must not initialise CUDA before a fork
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic matrix products on CUDA
    "TRL_EXPERIMENTAL_SILENCE": "1",
}


@dataclass(frozen=True)
class Workspace:
    """A checkout: code, params, artifacts, and the state that git does not keep."""

    root: Path

    @property
    def state(self) -> Path:
        """Embedded databases, locks, records of runs and servers."""
        return self.root / ".sluice"

    @property
    def work(self) -> Path:
        """What stages need while they work, and logs."""
        return self.root / ".work"

    @property
    def params_file(self) -> Path:
        return self.root / "params.yaml"

    def lock_file(self, name: str) -> Path:
        return self.state / "locks" / f"{name}.lock"

    def servers(self) -> dict[str, dict[str, Any]]:
        """The local servers that `sluice up` started and that still live: {"prefect": {"pid", "url"}, "mlflow": {...}}."""
        known = read_json(self.state / "servers.json", {})
        return {name: server for name, server in known.items() if alive(server["pid"], server["started"])}

    @property
    def embedded_store(self) -> str:
        """The address of MLflow's database in the workspace."""
        return f"sqlite:///{self.state / 'mlflow.db'}"

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI, else the local server, else the embedded database. Raises UserError where the variable holds no address."""
        given = os.environ.get(web.MLFLOW.variable, "").strip()
        if given:
            web.check_store(given)
        server = self.servers().get("mlflow")
        uri = given or (server["url"] if server else self.embedded_store)
        return re.sub("^postgres(ql)?://", "postgresql+psycopg2://", uri)  # SQLAlchemy 2.1 would ask for another driver


def find(start: Path | None = None) -> Workspace:
    """The workspace that `start` (default: the current folder) lies in. Raises UserError outside of one."""
    try:
        here = (start or Path.cwd()).resolve()
    except FileNotFoundError:
        raise UserError("the current folder was deleted: change into your clone, then try again") from None
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
            if odd := UNSUITABLE.search(str(folder)):
                raise UserError(
                    f"{str(folder)!r} holds {odd[0]!r}, must be a path in UTF-8 without '?' and control characters, "
                    "where databases are named by it: move the clone"
                )
            return Workspace(folder)
    raise UserError(f"{here} is not in a Sluice workspace: no folder above it holds dvc.yaml and .dvc; change into your clone")


def prepare_environment(workspace: Workspace) -> None:
    """Set what every process of the workspace needs; what the caller has set stays, but for the opt-outs.

    The interpreter's own folder leads PATH, so that DVC finds `sluice` whether or not the environment is activated. Addresses lose their
    passwords to variables of their own, what is on this machine is asked for without a proxy, and logs are masked. Raises UserError where
    too few files may be open.
    """
    _be_careful()
    os.environ.update(OPT_OUTS)
    own = {
        "PREFECT_HOME": str(workspace.state / "prefect"),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (workspace.state / "mlartifacts").as_uri(),  # else ./mlruns, and a quote in its path ends in SQL
    }
    for name, value in {**DEFAULTS, **own}.items():
        os.environ.setdefault(name, value)
    programs = str(Path(sys.executable).parent)
    if programs not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", "")])
    _be_somebody(workspace)
    for server in (web.MLFLOW, web.PREFECT):
        server.apart(os.environ)
    _reach_this_machine(os.environ)
    masking.mask_logs()
    for name in ("mlflow.store.db.utils", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log the traceback of what they raise, a signal's too, and we tell


def _be_careful() -> None:
    """No file that is made from now on may be written by everybody, and enough may be open at once.

    Who lets everybody write (a umask of 0, as containers have) chose nothing: the group may not either. Raises UserError where too few may
    be open: libraries would blame their databases.
    """
    before = os.umask(0o022)
    os.umask(before if before & 0o002 else before | 0o022)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < OPEN_FILES:
        raise UserError(
            f"this process may hold {hard} open files, must be {OPEN_FILES} or more: 'ulimit -n {OPEN_FILES}' before the command; "
            "where the shell may not, raise nofile in /etc/security/limits.conf, or start the container with --ulimit nofile=1024"
        )
    if 0 <= soft < OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, hard))


def _be_somebody(workspace: Workspace) -> None:
    """Libraries ask for a user's name and home; in many containers a number runs them that has neither."""
    os.environ.setdefault("USER", failures.user_name())
    if not os.environ.get("HOME"):
        os.environ.pop("HOME", None)  # a blank one says nothing: then the system knows
    try:
        home = str(Path.home())
    except RuntimeError:
        home = ""
    if not os.path.isabs(home) or (os.path.lexists(home) and not os.path.isdir(home)):
        os.environ["HOME"] = str(workspace.state / "home")


def _reach_this_machine(environ: MutableMapping[str, str]) -> None:
    """Add the loopback addresses to those that no proxy is asked for; what stands there stays.

    A SOCKS proxy is left out where the package that speaks to one is missing: the HTTP client would end in that, whomever it asks.
    """
    for name, value in list(environ.items()):
        if name.lower().endswith("_proxy") and value.lower().startswith("socks") and importlib.util.find_spec("socksio") is None:
            print(f"sluice: {name} is left out, a SOCKS proxy needs the package socksio: name an HTTP proxy, or unset it", file=sys.stderr)
            del environ[name]
    if not any(name.lower().endswith("_proxy") for name in environ):
        return
    listed = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if listed.strip() != "*":
        known = [host.strip() for host in listed.split(",") if host.strip()]
        environ["no_proxy"] = environ["NO_PROXY"] = ",".join([*known, *(host for host in LOOPBACK if host not in known)])


def forgive_warnings(environ: MutableMapping[str, str]) -> None:
    """A warning ends no command: PYTHONWARNINGS=error, as people set it for their own tests, would end each one in a library's first."""
    options = environ.get("PYTHONWARNINGS", "").split(",")
    kept = [option for option in options if option and not option.startswith("error")]
    if kept == options:
        return
    environ["PYTHONWARNINGS"] = ",".join(kept)
    warnings.filters[:] = [entry for entry in warnings.filters if entry[0] != "error"]  # type: ignore[index]
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)


@contextlib.contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Hold an exclusive lock that dies with its process. Waits for it, or raises UserError(busy) at once where `busy` is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{busy} (process {file.read().strip() or 'unknown'})") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def start_time(pid: int) -> str:
    """When a process started, in the kernel's own ticks; "" where there is no such process. With the pid it names a process for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def alive(pid: int, started: str) -> bool:
    """Whether the very process that had this pid at that start time still runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z" and start_time(pid) == started


def wait_until(ready: Any, seconds: float, what: str) -> None:
    """Poll `ready()` until it is true. Raises Unavailable naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise Unavailable(what)
        time.sleep(0.1)
