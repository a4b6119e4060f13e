"""The program that runs inside the sandbox: gives its identity away, sets the limits, then answers calls with literals.

Its text is handed to the interpreter in there (`python -c`), so it imports the standard library only, and little of it: imports are most
of what a start costs. The first line on standard input is the job, a dict literal; each further line is one call, `(args, kwargs)`; each
answer is one line, "=" and the literal of the result, or "!" and the exception's name.
"""

from __future__ import annotations

import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def confine(uid: int | None, limits: dict[str, tuple[int, int]]) -> None:
    """Become `uid` for good, then set the limits: root would not be bound by the number of processes."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    for name, (soft, hard) in limits.items():
        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]  # who is not root cannot raise it
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def serve() -> None:
    """Answer calls until the input ends. The channel is moved away from where programs print, which leads to nothing."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    job = read(calls.readline())
    confine(job["uid"], job["limits"])
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
                answer = "=" + ascii(scope[job["entry_point"]](*args, **kwargs))
            except BaseException as error:
                answer = "!" + type(error).__name__
        answers.write(answer.encode() + b"\n")
        answers.flush()


def read(line: bytes) -> Any:
    """The value of a literal from the checker, which we trust as it does not trust us; floats may be inf or nan."""
    return eval(line, {"__builtins__": {}, "inf": float("inf"), "nan": float("nan"), "set": set})


if __name__ == "__main__":
    serve()
