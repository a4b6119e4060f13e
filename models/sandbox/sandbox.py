"""Verdicts on generated programs that cannot leave the place where they run.

Three processes a program: this one starts a trusted checker (models/sandbox/checker.py), which holds the test and starts the sandbox, in
which models/sandbox/driver.py answers calls. Only literals cross between the last two.

In the sandbox there is no network, no /proc, no home, no environment and nothing of this project: /usr and the interpreter, read only, and
a small private /tmp. Whatever is started in it lives in its own process namespace and dies with it. As root we build it with real
privileges, and the driver then becomes a user that owns nothing; otherwise a user namespace does, in which nobody owns anything either.
What namespaces and limits leave open, models/sandbox/seccomp.py closes. A program costs about 45 ms of a core by bubblewrap, 70 by unshare.
"""

import ast
import contextlib
import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import Field

from models.core.errors import Unavailable
from models.core.records import Record
from models.sandbox import seccomp

CHECKER = Path(__file__).with_name("checker.py")
DRIVER = Path(__file__).with_name("driver.py")
TMP_BYTES = 16 << 20
TMP_FILES = 4096  # an empty file takes no byte of them, but one kilobyte of the kernel's
LIBRARIES = ("/lib", "/lib32", "/lib64", "/libx32")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
KILL_SECONDS = 3.0  # after the checker's own alarm, which should have ended it


class ResourceLimits(Record):
    """What one generated program may use."""

    wall_seconds: float = Field(gt=0, le=600, description="from the start of its sandbox to the verdict")
    cpu_seconds: int = Field(ge=1, le=600, description="processor time of each process")
    memory_mib: int = Field(ge=32, description="address space of each process")
    processes: int = Field(ge=1, le=1000, description="processes and threads at once")
    output_kib: int = Field(ge=1, le=65536, description="the largest reply to one call, and the largest file")


class Job(Record):
    """One program and its test; the preamble (the problem's prompt) gives the test the helpers that it may call."""

    program: str
    preamble: str
    entry_point: str
    test: str


class Verdict(Record):
    """`reason` is empty for a program that passed; `loaded` is false where it could not be called at all."""

    passed: bool
    reason: str
    timeout: bool
    loaded: bool = True


class Isolation(Record):
    """The tool that isolates here; None with the reason, which names a command, where none does."""

    backend: str | None
    reason: str = ""


def check_all(jobs: Sequence[Job], limits: ResourceLimits, backend: str | None = None) -> list[Verdict]:
    """Return a verdict a job, in order; as many run at once as there are cores. `backend` None takes what isolation() found.

    Raises Unavailable where it found nothing.
    """
    backend = backend or isolation().backend
    if not backend:
        raise Unavailable(f"generated programs cannot be run: {isolation().reason}")
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda job: check(job, limits, backend), jobs))


def check(job: Job, limits: ResourceLimits, backend: str) -> Verdict:
    """Return the verdict on one program; the checker and all that it started are gone afterwards."""
    order = job.model_dump() | {
        "command": BACKENDS[backend](),
        "rlimits": _rlimits(limits),
        "system_calls": seccomp.build(os.uname().machine),
        "wall_seconds": limits.wall_seconds,
        "output_bytes": limits.output_kib << 10,
    }
    checker = subprocess.Popen(
        [sys.executable, "-I", "-S", str(CHECKER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        start_new_session=True,
    )
    try:
        answer, _ = checker.communicate(ascii(order).encode(), timeout=limits.wall_seconds + KILL_SECONDS)
    except subprocess.TimeoutExpired:
        answer = b""
    finally:
        _kill_group(checker)
    if answer:
        return Verdict.model_validate(ast.literal_eval(answer.decode()))
    late = checker.returncode in (-signal.SIGALRM, -signal.SIGKILL)
    return Verdict(passed=False, reason="the time is up" if late else "a reply broke the test", timeout=late)


@functools.cache
def isolation() -> Isolation:
    """Return the first tool that really runs a program here; each is tried with one."""
    if os.uname().machine not in seccomp.MACHINES:
        return Isolation(backend=None, reason=f"system calls are filtered on {' and '.join(seccomp.MACHINES)} only")
    probe = Job(program="def answer(): return 42", preamble="", entry_point="answer", test="def check(f): assert f() == 42")
    limits = ResourceLimits(wall_seconds=10, cpu_seconds=5, memory_mib=256, processes=4, output_kib=4)
    faults = []
    for backend in BACKENDS:
        if not shutil.which(backend):
            faults.append(f"{backend} is not installed")
            continue
        verdict = check(probe, limits, backend)
        if verdict.passed:
            return Isolation(backend=backend)
        faults.append(f"{backend}: {verdict.reason}")
    return Isolation(backend=None, reason=f"{'; '.join(faults)}; enable it with: {_remedy()}")


def _remedy() -> str:
    """The one command that most likely makes isolation work here."""
    for switch, value in (("kernel.apparmor_restrict_unprivileged_userns", "0"), ("kernel.unprivileged_userns_clone", "1")):
        path = Path("/proc/sys") / switch.replace(".", "/")
        if path.is_file() and path.read_text().strip() != value:
            return f"sudo sysctl -w {switch}={value}"
    if not shutil.which("bwrap"):
        return "sudo apt install bubblewrap"
    return "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined (this container forbids namespaces)"


def _rlimits(limits: ResourceLimits) -> dict[str, tuple[int, int]]:
    """Soft and hard; a second apart for processor time, so that its own signal tells the checker what ended the program."""
    return {
        "RLIMIT_CPU": (limits.cpu_seconds, limits.cpu_seconds + 1),
        "RLIMIT_AS": (limits.memory_mib << 20, limits.memory_mib << 20),
        "RLIMIT_FSIZE": (limits.output_kib << 10, limits.output_kib << 10),
        "RLIMIT_NOFILE": (32, 32),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_NPROC": (limits.processes, limits.processes),
    }


@functools.cache
def _bubblewrap() -> tuple[str, ...]:
    """As root we keep the right to become another user, else we map ourselves to nobody.

    The driver uses that, and the right to bound the number of files, for which bubblewrap has no option; then it gives both up.
    """
    command = [_tool("bwrap"), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--cap-add", "CAP_SYS_ADMIN"]
    if os.geteuid() == 0:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    command += ["--die-with-parent", "--ro-bind", "/usr", "/usr", "--ro-bind", str(_interpreter()[0]), "/python"]
    for folder, link in _libraries():
        command += ["--symlink", link, folder] if link else ["--ro-bind", folder, folder]
    command += ["--perms", "0755", "--dir", "/dev"]
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    for folder in _hidden():
        command += ["--tmpfs", folder]
    command += ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    return (*command, "--", *_driver(), f"size={TMP_BYTES},nr_inodes={TMP_FILES}")


@functools.cache
def _unshare() -> tuple[str, ...]:
    """The same place by util-linux: a shell, first in its process namespace, builds it, moves in and starts the driver as its child.

    The shell stays, because a process that changes its user is no longer killed with its parent, and the shell does not change.
    setpriv sees to it that unshare dies with the checker.
    """
    root = os.geteuid() == 0
    lines = ["set -e", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "mount -t tmpfs -o mode=755,size=1m sandbox /mnt", "cd /mnt"]
    lines += ["mkdir usr python dev tmp old proc", "mount --rbind /proc proc", f"touch {' '.join(device[1:] for device in DEVICES)}"]
    shown = [("/usr", "usr"), (str(_interpreter()[0]), "python")]  # the interpreter's may be /usr too
    for folder, link in _libraries():
        lines += [f"ln -s {shlex.quote(link)} {folder[1:]}"] if link else [f"mkdir {folder[1:]}"]
        shown += [] if link else [(folder, folder[1:])]
    for source, target in shown:
        lines += [f"mount --bind {shlex.quote(source)} {target}", f"mount -o remount,bind,ro {target}"]
    lines += [f"mount --bind {device} {device[1:]}" for device in DEVICES]
    lines += [f"mount -t tmpfs -o ro,size=1m hidden {shlex.quote(folder[1:])}" for folder in _hidden()]
    lines += [f"mount -t tmpfs -o mode=1777,nosuid,nodev,size={TMP_BYTES},nr_inodes={TMP_FILES} tmp tmp", "mount -o remount,bind,ro /mnt"]
    lines += ["pivot_root . old", "cd /tmp", "umount -l /old /proc", '"$@"', "exit $?"]
    spaces = [_tool("setpriv"), "--pdeathsig", "KILL", _tool("unshare"), "--mount", "--uts", "--ipc", "--net", "--pid", "--kill-child"]
    spaces += [] if root else ["--map-root-user"]
    rights = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all" + (",+setuid,+setgid" if root else "")]
    return (*spaces, "sh", "-c", "\n".join(lines), "sh", *rights, *_driver())


def _tool(name: str) -> str:
    return shutil.which(name) or name


def _libraries() -> list[tuple[str, str]]:
    """The folders outside /usr where the system's libraries are found, each with where it points, "" for a real folder."""
    return [(folder, os.readlink(folder) if os.path.islink(folder) else "") for folder in LIBRARIES if os.path.exists(folder)]


def _interpreter() -> tuple[Path, str]:
    """The prefix of the interpreter under this environment, shown inside as /python, and the binary's path in it."""
    prefix = Path(sys.base_prefix).resolve()
    binary = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if not binary.is_relative_to(prefix):
        binary = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return prefix, binary.relative_to(prefix).as_posix()


def _hidden() -> list[str]:
    """Where this project and the workspace would be seen in there: they may lie under /usr, as in containers, or under the interpreter."""
    shown, projects = ((Path("/usr"), "/usr"), (_interpreter()[0], "/python")), {Path.cwd().resolve(), Path(__file__).resolve().parents[2]}
    return sorted(
        f"{inside}/{project.relative_to(outside)}"
        for outside, inside in shown
        for project in projects
        if project.is_relative_to(outside) and not any(place.is_relative_to(project) for place, _ in shown)
    )


def _driver() -> list[str]:
    """No environment but where a relocated interpreter finds its own library; -I and -S keep every site package out."""
    interpreter = ["/usr/bin/env", "-i", "LD_LIBRARY_PATH=/python/lib", f"/python/{_interpreter()[1]}", "-I", "-S"]
    return [*interpreter, "-c", DRIVER.read_text(encoding="utf-8")]


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process that was started as leader of its own session, and collect it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


BACKENDS: dict[str, Callable[[], tuple[str, ...]]] = {"bwrap": _bubblewrap, "unshare": _unshare}
