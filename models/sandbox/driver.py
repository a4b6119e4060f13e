"""The program that runs inside the sandbox: gives its identity away, sets the limits, then answers calls with literals.

Its text is handed to the interpreter in there (`python -c`), so it imports the standard library only, and little of it: imports are most
of what a start costs. The first line on standard input is the job, a dict literal; each further line is one call, `(args, kwargs)`; each
answer is one line: "=" and the literal of the result, "!" and the literal (exception's name, its arguments), or "?" and why the program
cannot be called at all. What equals a literal goes as that literal: a Counter as a dict, a named tuple as a tuple, a Fraction of 1/2 as
0.5. Some values go as calls: frozenset(...), range(...), iter(...), and the views of a dict as keys(...), values(...), items(...).
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
CONTAINERS: tuple[tuple[Any, Any], ...] = ((list, list), (tuple, tuple), (set, set), (frozenset, frozenset))
VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}
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
    sys.set_int_max_str_digits(0)
    program = sys.modules["program"] = type(sys)("program")  # classes and dataclasses look their module up
    failure = ""
    try:
        exec(compile(job["program"], "program", "exec", dont_inherit=True), vars(program))
        if job["entry_point"] not in vars(program):
            failure = "?it defines no " + job["entry_point"]
    except BaseException as error:
        failure = "?" + type(error).__name__
    for line in calls:
        answer = failure
        if not failure:
            try:
                args, kwargs = read(line)
                answer = "=" + ascii(plain(getattr(program, job["entry_point"])(*args, **kwargs)))
            except BaseException as error:
                answer = "!" + ascii(raised(error))
        answers.write(answer.encode() + b"\n")
        answers.flush()


class Call:
    """A value that is written as a call: `name(argument)`."""

    def __init__(self, name: str, argument: Any) -> None:
        self.words = f"{name}({argument!a})"

    def __repr__(self) -> str:
        return self.words


def plain(value: Any) -> Any:
    """`value` with every part of a derived type as the built-in type that it derives from or equals; what is like none stays."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    for derived, base in CONTAINERS:
        if isinstance(value, derived):
            return base(map(plain, value))
    for derived, base in SCALARS.items():
        if isinstance(value, derived):
            return base(value)
    if kind in VIEWS:
        return Call(VIEWS[kind], plain(dict(value.mapping)))
    if isinstance(value, bytearray):
        return bytes(value)
    if hasattr(kind, "__float__") and float(value) == value:
        return float(value)
    return Call("iter", plain(list(value))) if hasattr(kind, "__next__") else value


def raised(error: BaseException) -> tuple[str, tuple[Any, ...]]:
    """The name of the built-in exception that this one is, and its arguments: as they are where they are scalars, else its message."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
    if all(value is None or type(value) in SCALARS for value in error.args):
        return name, error.args
    return name, (str(error),)


def read(line: bytes) -> Any:
    """The value of a literal from the checker, which we trust as it does not trust us; floats may be inf or nan."""
    names = {"inf": float("inf"), "nan": float("nan"), "set": set, "frozenset": frozenset, "range": range}
    return eval(line, {"__builtins__": {}, **names})


if __name__ == "__main__":
    serve()
