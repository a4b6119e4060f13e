"""The trusted side of a code suite: runs a problem's own test against a program that it can only call.

This file is started as a program of its own, one process a problem, so that whatever a reply does to the test can be killed from
outside. It reads one job on standard input and writes one verdict on standard output, both as Python literals.

job      {"command": [...], "rlimits", "system_calls", "program", "preamble", "entry_point", "test", "wall_seconds", "output_bytes"}
verdict  {"passed", "reason", "timeout", "loaded"}; `loaded` is false where the program is none, or defines no entry point

The program runs in `command`, a sandbox. Nothing of it ever runs here: a call goes there as a literal, and its reply comes back as one.
So the program may leave early, print what it likes or define objects that equal everything, and still only an answer that the test
accepts counts. A change that a program makes to its arguments is not seen: it could make a wrong answer right.

Its imports are few, because they are most of what a verdict costs: subprocess, json and typing would add 20 ms.
"""

from __future__ import annotations

import ast
import builtins
import os
import resource
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NUMBERS = {"inf": float("inf"), "nan": float("nan")}
CALLS: dict[str, Any] = {
    "frozenset": frozenset,
    "range": range,
    "iter": iter,
    "keys": dict.keys,
    "values": dict.values,
    "items": dict.items,
}
WORDS = 80  # characters of the program's that a report shows
GRACE_SECONDS = 1.0  # a test's own work after the program's time is up
TEST_BYTES = 1 << 30  # address space of a test: a reply is bounded, what a test makes of it is not
OUT_OF_PROCESSOR_TIME = 128 + signal.SIGXCPU  # as a shell and bubblewrap report it
ENDS_OF_LOOPS = (StopIteration, StopAsyncIteration)  # `all(map(...))` in a test would take one for the end of its cases
LITERALS = (int, float, complex, str, bytes, bool, range, type(None), type(...))


class Broken(BaseException):
    """The program cannot go on; not an Exception, so that no test swallows it."""


class Slow(Broken):
    """The time is up."""


class Unloaded(Broken):
    """The program is none, or has no entry point."""


class Values(ast.NodeTransformer):
    """Put the values in for what Python writes as names or calls: inf and nan, frozensets, ranges, iterators and views."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Constant(NUMBERS[node.id]), node) if node.id in NUMBERS else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in CALLS:
            return node
        return ast.copy_location(ast.Constant(CALLS[name](*(ast.literal_eval(self.visit(part)) for part in node.args))), node)


def read_literal(text: str) -> Any:
    """The value of a Python literal, or of what is written as a call of CALLS; raises Broken where it is anything else, or too large."""
    try:
        return ast.literal_eval(Values().visit(ast.parse(text, mode="eval")))
    except (ValueError, TypeError, SyntaxError, ArithmeticError, MemoryError, RecursionError) as error:
        raise Broken(f"the program answered something that is not a literal ({type(error).__name__})") from None


def check_literal(value: Any) -> Any:
    """Return `value`; raises Broken where a test passes what cannot be sent as a literal."""
    if type(value) in (list, tuple, set, frozenset):
        for part in value:
            check_literal(part)
    elif type(value) is dict:
        for key, part in value.items():
            check_literal(key)
            check_literal(part)
    elif type(value) not in LITERALS:
        raise Broken(f"the test passes a {type(value).__name__}, which is no literal")
    return value


def plain(words: str) -> str:
    """Words of the program's as they may stand in a report: few, on one line, nothing that a terminal obeys."""
    return "".join(letter if letter.isprintable() else "?" for letter in words[:WORDS])


def exception(told: Any) -> Exception:
    """The built-in exception of (name, arguments); of a kind that no test should meet, a RuntimeError."""
    if not (type(told) is tuple and len(told) == 2 and type(told[0]) is str and type(told[1]) is tuple):
        raise Broken("the program answered something that is no exception")
    kind: Any = getattr(builtins, told[0], None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)) or issubclass(kind, ENDS_OF_LOOPS):
        return RuntimeError(*told)
    try:
        return kind(*told[1])
    except TypeError:  # it wants other arguments
        return Exception(*told[1])


def sandbox_uid() -> int | None:
    """A user that owns nothing, and another for each program that runs now: the limit on processes counts by user.

    None where we are not root, and so cannot become anybody else.
    """
    return 20_000 + os.getpid() % 40_000 if os.geteuid() == 0 else None


class Candidate:
    """Calls the program's entry point through two pipes, under one deadline."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.deadline = time.monotonic() + job["wall_seconds"]
        self.limit = job["output_bytes"]
        self.calls = 0
        self.broken: Broken | None = None
        self.unread = b""
        calls, self.ask = os.pipe()
        self.replies, answers = os.pipe()
        self.words, errors = os.pipe()
        ends = [(os.POSIX_SPAWN_DUP2, end, target) for target, end in enumerate((calls, answers, errors))]
        self.pid = os.posix_spawn(job["command"][0], job["command"], {}, file_actions=ends)
        for end in (calls, answers, errors):
            os.close(end)
        os.set_blocking(self.ask, False)
        start = {"limits": job["rlimits"], **{key: job[key] for key in ("system_calls", "program", "entry_point")}}
        self._send(ascii(start | {"uid": sandbox_uid()}).encode() + b"\n")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the program's result as plain values, or raise the built-in exception that it raised."""
        try:
            self.calls += 1
            self._send(ascii((check_literal(args), check_literal(kwargs))).encode() + b"\n")
            reply = self._receive().decode("ascii", "replace")
            if reply[:1] == "?" and self.calls == 1:
                raise Unloaded(f"the program cannot be called: {plain(reply[1:])}")
            if reply[:1] == "=":
                return read_literal(reply[1:])
            error = exception(read_literal(reply[1:]))
        except Broken as broken:
            self.broken = broken
            raise
        raise error

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def _send(self, data: bytes) -> None:
        while data:
            self._wait([], [self.ask])
            try:
                data = data[os.write(self.ask, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise self._end() from None

    def _receive(self) -> bytes:
        """One line of at most `limit` bytes."""
        parts, size = [self.unread], len(self.unread)
        while b"\n" not in parts[-1]:
            self._wait([self.replies], [])
            part = os.read(self.replies, 1 << 16)
            if not part:
                raise self._end()
            parts.append(part)
            size += len(part)
            if size > self.limit:
                raise Broken(f"the program answered more than {self.limit} bytes")
        line, _, self.unread = b"".join(parts).partition(b"\n")
        return line

    def _wait(self, readable: list[int], writable: list[int]) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0 or not any(select.select(readable, writable, [], left)):
            raise Slow("the time is up")

    def _end(self) -> Broken:
        """Why the sandbox ended; the driver is silent, so that words here are those of the sandbox's own tools."""
        patience = time.monotonic() + 1
        while time.monotonic() < patience:
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended:
                if ended.si_status == OUT_OF_PROCESSOR_TIME:
                    return Slow("the processor time is up")
                break
            time.sleep(0.002)
        self.kill()
        words = os.read(self.words, 4096).decode("utf-8", "replace").strip()
        return Broken(f"the sandbox ended: {words.splitlines()[-1]}" if words else "the program ended without an answer")


def verdict(job: dict[str, Any]) -> dict[str, Any]:
    """Run the test; it passes when `check` returns after at least one call and no call was lost on the way."""
    module = sys.modules["test"] = type(sys)("test")
    scope, candidate = vars(module), None
    reason, timeout, loaded = "", False, True
    try:
        exec(compile(f"{job['preamble']}\n{job['test']}", "test", "exec", dont_inherit=True), scope)
        candidate = scope[job["entry_point"]] = Candidate(job)
        scope["check"](candidate)
        if candidate.broken:
            raise candidate.broken
        if not candidate.calls:
            raise Broken("the test never called the program")
    except AssertionError:
        reason = "a wrong answer"
    except Broken as error:
        reason, timeout, loaded = str(error), isinstance(error, Slow), not isinstance(error, Unloaded)
    except BaseException as error:
        reason = type(error).__name__
    finally:
        if candidate:
            candidate.kill()
    return {"passed": not reason, "reason": reason, "timeout": timeout, "loaded": loaded}


def main() -> None:
    """Answer on a private copy of standard output: what a test prints goes nowhere.

    The alarm has no handler, so that the kernel ends this process whatever it is doing; the starter takes silence as time being up.
    """
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    sys.set_int_max_str_digits(0)
    job = ast.literal_eval(sys.stdin.read())
    signal.setitimer(signal.ITIMER_REAL, job["wall_seconds"] + GRACE_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (TEST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    os.write(answer, ascii(verdict(job)).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
