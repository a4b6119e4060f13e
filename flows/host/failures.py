"""What a failure is called that the operating system or a library raised: one of our own errors, in one line, without a secret.

Only what is known by its class is named here. None is imported for it: an error's class says which module it came from.
"""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flows.host import web
from flows.host.masking import masked
from models.core.errors import SluiceError, StageError, Unavailable, UserError

PROGRAMS = ("git",)  # that are called by their names
FULL = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY_NAME = re.compile(r"(tmp|sluice-\w+-)[a-z0-9_]{8}")
TEMPORARY = (*FULL, errno.EROFS, errno.EACCES, errno.EFBIG)  # where another folder would do
FILE_FAULTS: dict[int, tuple[type[SluiceError], str, str]] = {  # errno: (kind, what is, what to do)
    errno.ENOENT: (
        UserError,
        "is missing",
        "bring it back ('git checkout', 'dvc pull'), or correct the path; a broken link counts as missing",
    ),
    errno.EACCES: (UserError, "is closed to this user ({user})", "'chmod' or 'chown' it, or run as its owner"),
    errno.EPERM: (
        UserError,
        "may not be changed by this user ({user})",
        "'chown' it or lift its attributes ('lsattr'), or run as its owner",
    ),
    errno.EROFS: (UserError, "is on a file system that is read-only", "work in a clone on one that can be written"),
    errno.EISDIR: (UserError, "is a folder, must be a file", "name the file, or move the folder away"),
    errno.ENOTDIR: (UserError, "lies below a file, must lie in a folder", "move the file away, or correct the path"),
    errno.EEXIST: (UserError, "is there already and is something else", "move it away"),
    errno.ENOTEMPTY: (UserError, "is a folder that is not empty, must be a file or gone", "move it away"),
    errno.ENAMETOOLONG: (UserError, "is too long for a name on this file system", "use a shorter name, or a workspace less deep"),
    errno.ELOOP: (UserError, "is a link that leads back to itself", "remove the link, put the file there"),
    errno.ENXIO: (UserError, "is a socket or a device without a partner, must be a file", "name a plain file"),
    errno.EINVAL: (UserError, "is no file that can be read or written so", "name a plain file on a local disk"),
    errno.ENODEV: (UserError, "is no file that can be read or written so", "name a plain file on a local disk"),
    errno.EFBIG: (UserError, "would become larger than files of this user may", "raise the limit ('ulimit -f unlimited')"),
    errno.EXDEV: (UserError, "lies on another file system than its workspace", "keep .sluice, .work, artifacts and metrics on one"),
    errno.ETXTBSY: (UserError, "is a program that runs", "wait for it to end"),
    errno.EOPNOTSUPP: (UserError, "is on a file system without locks", "work in a clone on a local disk"),
    errno.ENOLCK: (UserError, "is on a file system without locks", "work in a clone on a local disk"),
    errno.ENOSYS: (UserError, "is on a file system that cannot do this", "work in a clone on a local disk"),
    errno.EBUSY: (Unavailable, "is in use (a mount?)", "unmount it, or stop what uses it"),
    errno.ESTALE: (Unavailable, "is on a network file system that lost it", "mount that again"),
    errno.EIO: (Unavailable, "cannot be read or written: the disk reports an error", "look into 'dmesg', use another disk"),
    errno.ENOTCONN: (Unavailable, "is on a mount whose server is gone", "mount that again"),
}
MACHINE_FAULTS = {
    errno.EMFILE: "this process holds as many open files as it may: raise the limit ('ulimit -n 4096'), then run again",
    errno.ENFILE: "this machine holds as many open files as it may: stop something, or raise fs.file-max, then run again",
    errno.ENOMEM: "this machine has no memory left: stop something, or use a smaller recipe, then run again",
    errno.EAGAIN: "this user may start no more processes or threads: raise the limit ('ulimit -u'), or stop some, then run again",
}


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Raise what fails within under its name, and never with a secret: a flow's server keeps what is raised, and shows it."""
    try:
        yield
    except Exception as error:
        known = named(error)
        if known is None and masked(str(error)) != str(error):
            known = StageError(f"{type(error).__name__}: {one_line(error)}")
        if known is None or known is error:
            raise
        raise known from None


def named(error: BaseException) -> SluiceError | None:
    """The error as one of ours, without secrets; None where nobody foresaw it."""
    if isinstance(error, SluiceError):
        said, shown = str(error), masked(str(error))
        return error if said == shown else type(error)(shown)
    origin = type(error).__module__.partition(".")[0]
    if origin in NAMES:
        return NAMES[origin](error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return UserError(f"{masked(ascii(error.object[:200]))} holds bytes that are no UTF-8, must be text in UTF-8: correct or rename it")
    if isinstance(error, MemoryError):
        return Unavailable(MACHINE_FAULTS[errno.ENOMEM])
    return of_system(error) if isinstance(error, OSError) else None


def interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: a library that meets it in its own work, as pydantic's core does, may raise that as another."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or re.search(r"^\s*KeyboardInterrupt\b", str(error), re.MULTILINE):
            return True
        error = error.__cause__ or error.__context__
    return False


def of_system(error: OSError) -> SluiceError:
    """One line for what the operating system refused."""
    place = error.filename if error.filename is not None else error.filename2
    where = masked(os.fsdecode(place) if isinstance(place, str | bytes) else str(place or "a file"))
    if error.errno == errno.ENOENT and where in PROGRAMS:
        return UserError(f"the program {where} is not installed: apt install {where}, then run again")
    if place is None and str(error.strerror).startswith("No usable temporary directory"):
        return UserError(
            f"no folder for temporary files can be written ({_listed(error)}): name one in TMPDIR with some space left on its disk"
        )
    if place is not None and _is_temporary(where) and error.errno in TEMPORARY:
        return Unavailable(f"{where} cannot be written ({error.strerror}): name a folder in TMPDIR with more space, then run again")
    if error.errno in FULL:
        said = where if place else error.strerror
        return Unavailable(
            f"the disk is full ({said}): free some space ('dvc gc -w' drops unused cache{_elsewhere(place)}), then run again"
        )
    if error.errno in MACHINE_FAULTS:
        return Unavailable(MACHINE_FAULTS[error.errno])
    if error.errno in FILE_FAULTS:
        kind, what, do = FILE_FAULTS[error.errno]
        return kind(f"{where} {what.format(user=user_name())}: {do}")
    return Unavailable(f"{where}: {masked(error.strerror or one_line(error))}: nothing of ours explains it; mend that, then run again")


def require_room(folder: Path) -> None:
    """Raise, in one line, what keeps a MiB from being written there: libraries tell of that as of anything else."""
    try:
        with tempfile.TemporaryFile(dir=next(place for place in (folder, *folder.parents) if place.is_dir())) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
    except OSError as error:
        raise of_system(OSError(error.errno, error.strerror, str(folder))) from None


def _listed(error: OSError) -> str:
    """The folders that were tried for temporary files."""
    return str(error.strerror).partition("[")[2].rpartition("]")[0].replace("'", "") or "none is there"


def _is_temporary(where: str) -> bool:
    """Whether that is, or lies in, what tempfile made, and the user does not work in it."""
    folder = f"{(tempfile.tempdir or os.environ.get('TMPDIR') or '/tmp').rstrip('/')}/"
    first = where.removeprefix(folder).partition("/")[0]
    return where.startswith(folder) and TEMPORARY_NAME.fullmatch(first) is not None and not os.getcwd().startswith(folder + first)


def _elsewhere(place: object) -> str:
    """Where else space may be short, if the system did not say where."""
    folder = tempfile.tempdir
    with contextlib.suppress(OSError):
        if place is None and folder and os.stat(folder).st_dev != os.stat(os.curdir).st_dev:
            return f"; temporary files are in {folder}, TMPDIR names another place"
    return ""


def one_line(error: BaseException, length: int = 300) -> str:
    """What an error says, masked, in one line that is not too long."""
    return masked(" ".join(str(error).split()))[:length]


def of_dvc(error: BaseException) -> SluiceError:
    """DVC's own failures; where the operating system is behind one, that is what is said."""
    behind = error.__cause__ or error.__context__
    if isinstance(behind, OSError) and type(behind).__module__ == "builtins":
        return of_system(behind)
    return UserError(f"DVC: {one_line(error)}")


def user_name() -> str:
    """Who runs this; "uid 12345" where that number has no name, as in many containers."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the second from Python 3.13 on
        return f"uid {os.getuid()}"


def _of_mlflow(error: BaseException) -> SluiceError:
    return web.MLFLOW.failure(os.environ.get(web.MLFLOW.variable, ""), error)


def _of_prefect(error: BaseException) -> SluiceError | None:
    """Only what came over the wire: Prefect's other errors are about flows."""
    if not any(base.__module__.startswith(("httpx", "httpcore", "websockets")) for base in type(error).__mro__):
        return None
    return web.PREFECT.failure(os.environ.get(web.PREFECT.variable, ""), error)


NAMES: dict[str, Callable[[Any], SluiceError | None]] = {  # by the package that the error's class is of
    **dict.fromkeys(("mlflow", "sqlalchemy", "sqlite3", "psycopg2", "requests", "urllib3", "alembic"), _of_mlflow),
    **dict.fromkeys(("prefect", "httpx", "httpcore", "websockets"), _of_prefect),
    **dict.fromkeys(("dvc", "dvc_data", "dvc_objects", "dvc_s3", "scmrepo"), of_dvc),
}
