"""The program that runs inside the sandbox: gives its identity away, sets the limits, then answers calls with literals.

Its text is handed to the interpreter in there (`python -c`), so it imports the standard library only, and little of it: imports are most
of what a start costs. The first line on standard input is the job, a dict literal; each further line is one call, `(args, kwargs)`; each
answer is one line, "=" and the literal of the result, or "!" and the exception's name. What equals a literal goes as that literal: a
Counter as a dict, a named tuple as a tuple, a frozenset as a set.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


LIBC = ctypes.CDLL(None, use_errno=True)
REMOUNT = 32 | 2 | 4  # MS_REMOUNT, and still MS_NOSUID and MS_NODEV
CAPABILITIES = (0x20080522, 0)  # capset(2): version 3, this process
SCALARS: dict[type, Any] = {
    bool: bool,
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: bytes.__bytes__,
}
CONTAINERS = ((list, list), (tuple, tuple), ((set, frozenset), set))
SECCOMP, BY_FILTER = 22, 2  # prctl(2)


def confine(uid: int | None, limits: dict[str, tuple[int, int]], system_calls: bytes) -> None:
    """Bound /tmp, leave the starter's process group, become `uid` for good, give up all rights, set the limits, let the filter in.

    Root would not be bound by the number of processes; and kill(0) would reach the checker, for a process group crosses namespaces.
    """
    for options in sys.argv[1:]:
        must(LIBC.mount(b"tmpfs", b"/tmp", None, REMOUNT, options.encode()))
    os.setsid()
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    must(LIBC.capset(struct.pack("Ii", *CAPABILITIES), bytes(24)))
    for name, (soft, hard) in limits.items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]  # who is not root cannot raise it
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))
    steps = ctypes.create_string_buffer(system_calls, len(system_calls))
    must(LIBC.prctl(SECCOMP, BY_FILTER, struct.pack("HP", len(steps) // 8, ctypes.addressof(steps)), 0, 0))


def must(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def serve() -> None:
    """Answer calls until the input ends. The channel is moved away from where programs print, which leads to nothing."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open("/dev/null", os.O_RDWR)
    job = read(calls.readline())
    confine(job["uid"], job["limits"], job["system_calls"])
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    scope: dict[str, Any] = {"__name__": "program"}
    failure = ""
    try:
        exec(compile(job["program"], "program", "exec"), scope)
    except BaseException as error:
        failure = type(error).__name__
    for line in calls:
        answer = "!" + failure
        if not failure:
            try:
                args, kwargs = read(line)
                answer = "=" + ascii(plain(scope[job["entry_point"]](*args, **kwargs)))
            except BaseException as error:
                answer = "!" + type(error).__name__
        answers.write(answer.encode() + b"\n")
        answers.flush()


def plain(value: Any) -> Any:
    """`value` with every part of a derived type as the built-in type that it derives from; what derives from none stays."""
    if type(value) in SCALARS:
        return value
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    for kind, base in CONTAINERS:
        if isinstance(value, kind):
            return base(map(plain, value))
    return next((base(value) for kind, base in SCALARS.items() if isinstance(value, kind)), value)


def read(line: bytes) -> Any:
    """The value of a literal from the checker, which we trust as it does not trust us; floats may be inf or nan."""
    return eval(line, {"__builtins__": {}, "inf": float("inf"), "nan": float("nan"), "set": set})


if __name__ == "__main__":
    serve()
