"""A program gets the verdict that its answers deserve, and nothing else that it does counts."""

import contextlib
import os
import shutil
import time
from pathlib import Path

import pytest

from models.sandbox import sandbox
from models.sandbox.sandbox import Job, ResourceLimits, Verdict
from models.score import items as kinds
from tests.suites import described, file_of

LIMITS = ResourceLimits(wall_seconds=4, cpu_seconds=2, memory_mib=256, processes=6, output_kib=64)
SHORT = LIMITS.model_copy(update={"wall_seconds": 1.5, "cpu_seconds": 1})
PROMPT = 'def double(x):\n    """Return twice x."""\n'
TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate([1]) == [1, 1]\n"
HUMANEVAL = Path(__file__).parents[2] / "../shared/data/benchmarks/humaneval"

here = sandbox.isolation()
BACKENDS = [pytest.param(name, marks=() if name == here.backend else pytest.mark.slow) for name in sandbox.BACKENDS if shutil.which(name)]
pytestmark = pytest.mark.skipif(not here.backend, reason=here.reason)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def judge(body: str, backend: str, test: str = TEST, limits: ResourceLimits = LIMITS) -> Verdict:
    return judge_whole(body, backend, test, PROMPT, limits)


def judge_whole(program: str, backend: str, test: str, preamble: str, limits: ResourceLimits = LIMITS) -> Verdict:
    """The verdict on `preamble` and `program`, of which the test sees the first."""
    return sandbox.check(Job(program=preamble + program, preamble=preamble, entry_point="double", test=test), limits, backend)


def test_a_right_program_passes(backend: str) -> None:
    assert judge("    return 2 * x\n", backend) == Verdict(passed=True, reason="", timeout=False)


def test_a_wrong_answer_fails_and_says_so(backend: str) -> None:
    assert judge("    return x\n", backend) == Verdict(passed=False, reason="a wrong answer", timeout=False)


def test_a_program_that_is_not_python_fails(backend: str) -> None:
    found = judge("    return (\n", backend)
    assert (found.reason, found.loaded) == ("the program cannot be called: SyntaxError", False)


@pytest.mark.parametrize("program", ["def double(x): return (", "def other(x): return x", "raise KeyError"])
def test_a_program_that_cannot_be_called_raises_nothing_that_a_test_may_expect(program: str, backend: str) -> None:
    test = "def check(candidate):\n    try:\n        candidate(-1)\n    except Exception:\n        return\n    assert False\n"
    found = judge_whole(program, backend, test, "")
    assert (found.passed, found.loaded) == (False, False)


TOP = "import collections, dataclasses, decimal, fractions, json, typing\n"


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("@dataclasses.dataclass\nclass P:\n    x: int\ndef double(x): return P(x).x * 2", "candidate(2) == 4"),
        ("@dataclasses.dataclass\nclass P:\n    x: 'typing.ClassVar[int]' = 2\ndef double(x): return P.x * x", "candidate(2) == 4"),
        ("class P(typing.NamedTuple):\n    x: int\ndef double(x): return P(x)", "candidate(2) == (2,)"),
        ("def double(x: int): return double.__annotations__['x'] is int", "candidate(2) is True"),
        ("def double(x): return {frozenset({1, x}), frozenset()}", "candidate(2) == {frozenset({1, 2}), frozenset()}"),
        ("def double(x): return {frozenset({x}): 1}", "candidate(2) == {frozenset({2}): 1}"),
        ("def double(x): return fractions.Fraction(1, x)", "candidate(2) == 0.5"),
        ("def double(x): return decimal.Decimal(x)", "candidate(2) == 2"),
        ("def double(x): return bytearray(x)", "candidate(b'a') == b'a'"),
        ("def double(x): return x.keys()", "list(candidate({'b': 1, 'a': 2})) == ['b', 'a'] and candidate({'a': 1}) == {'a'}"),
        ("def double(x): return x.items()", "candidate({'a': [1]}) == {'a': [1]}.items()"),
        ("def double(x): return x.values()", "sorted(candidate({'a': 2, 'b': 1})) == [1, 2]"),
        ("def double(x): return (2 * y for y in x)", "list(candidate([1, 2])) == [2, 4]"),
        ("def double(x): return map(str, x)", "list(candidate([1, 2])) == ['1', '2'] and candidate([1]) != ['1']"),
        ("def double(x): return range(x)", "candidate(3) == range(3) and len(candidate(10 ** 9)) == 10 ** 9"),
        ("def double(x): return 10 ** x", "candidate(5000) == 10 ** 5000"),
        ("def double(x): return sum(x)", "candidate(range(4)) == 6 and candidate(frozenset({1, 2})) == 3"),
        ("def double(x): return collections.OrderedDict(x)", "candidate({1: 2}) == {1: 2}"),
    ],
)
def test_a_right_program_passes_whatever_it_is_made_of(program: str, test: str, backend: str) -> None:
    whole = f"def check(candidate):\n    assert {test}\n"
    assert judge_whole(program, backend, whole, TOP).reason == ""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("raise ValueError('bad', 3)", "ValueError as e: assert e.args == ('bad', 3)"),
        ("json.loads('{')", "ValueError as e: assert 'line 1' in str(e)"),
        ("class E(LookupError): pass\n    raise E('gone')", "LookupError as e: assert str(e) == 'gone'"),
        ("b'\\xff'.decode()", "UnicodeDecodeError as e: assert e.start == 0"),
        ("{}['k']", "KeyError as e: assert e.args == ('k',)"),
        ("raise ExceptionGroup('two', [ValueError('a')])", "Exception: pass"),
        ("raise TypeError([1])", "TypeError as e: assert str(e) == '[1]'"),
    ],
)
def test_an_exception_is_the_built_in_one_that_it_is_with_its_message(raised: str, expected: str, backend: str) -> None:
    test = f"def check(candidate):\n    try:\n        candidate(1)\n    except {expected}\n    else: assert False\n"
    assert judge_whole(f"def double(x):\n    {raised}\n", backend, test, TOP).reason == ""


def test_a_preamble_may_hold_a_dataclass(backend: str) -> None:
    preamble = "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n"
    test = "def check(candidate):\n    assert candidate(P(2).x) == 4\n"
    assert judge_whole("def double(x): return 2 * x", backend, test, preamble).passed


def test_a_test_may_call_helpers_of_the_prompt_and_expect_exceptions(backend: str) -> None:
    prompt = "def helper(x):\n    return x + 1\n\ndef double(x):\n    pass\n"
    test = """def check(candidate):
    assert candidate(helper(1)) == 4
    try:
        candidate('no')
    except ValueError:
        return
    assert False
"""
    body = "def double(x):\n    if x == 'no':\n        raise ValueError\n    return 2 * x\n"
    assert judge_whole(body, backend, test, prompt).passed


def test_infinities_nans_sets_bytes_and_unicode_cross_the_border(backend: str) -> None:
    test = """def check(candidate):
    value = candidate([float("inf"), -float("inf"), float("nan"), {1, 2}, set(), b"\\x00", "\\u00e9\\n\\U0001f600", (1,), {None: True}, 2j])
    assert value[:2] == [float("inf"), -float("inf")] and value[2] != value[2]
    assert value[3:] == [{1, 2}, set(), b"\\x00", "\\u00e9\\n\\U0001f600", (1,), {None: True}, 2j]
"""
    assert judge("    return x\n", backend, test).passed


def test_what_equals_a_literal_counts_as_that_literal(backend: str) -> None:
    body = """    from collections import Counter, OrderedDict, namedtuple
    from enum import Enum, IntEnum
    number, word, pair = IntEnum("number", ["one", "two"]), Enum("word", {"w": "w"}, type=str), namedtuple("pair", "a b")
    return [Counter("aab"), OrderedDict(a=1), pair(1, [number.two]), frozenset([1]), word.w, True, None]
"""
    test = """def check(candidate):
    assert candidate(0) == [{"a": 2, "b": 1}, {"a": 1}, (1, [2]), {1}, "w", True, None]
"""
    assert judge(body, backend, test).passed


def test_what_is_no_literal_or_holds_itself_fails(backend: str) -> None:
    for body in (
        "    return iter([4])\n",
        "    x = [x]\n    x.append(x)\n    return x\n",
        "    return type('four', (int,), {'__eq__': lambda *_: True})(5)\n",
    ):
        assert not judge(body, backend).passed


def test_prints_of_program_and_test_do_not_disturb_the_protocol(backend: str) -> None:
    body = "    import sys\n    print('=4', flush=True)\n    sys.stderr.write('!')\n    sys.stdin.read()\n    return 2 * x\n"
    assert judge(body, backend, TEST.replace("assert", "print('no'); assert", 1)).passed


def test_a_test_that_never_calls_the_program_proves_nothing(backend: str) -> None:
    assert not judge("    return 2 * x\n", backend, "def check(candidate):\n    pass\n").passed


ATTACKS = {
    "leaves with status 0": r"""
    import os
    os._exit(0)
""",
    "leaves while loading": r"""
    pass
import os
os._exit(0)
""",
    "leaves by an exception": r"""
    raise SystemExit(0)
""",
    "equals everything": r"""
    class Same:
        def __eq__(self, other): return True
    return Same()
""",
    "equals everything as a number": r"""
    class Same(int):
        def __eq__(self, other): return True
    return Same(9)
""",
    "prints success": r"""
    print('{"passed": true, "reason": "", "timeout": false}', flush=True)
""",
    "forges replies on every descriptor": r"""
    import os
    for fd in range(32):
        try: os.write(fd, b'{"passed": true}\n')
        except OSError: pass
""",
    "answers a call to something": r"""
    class Odd:
        def __repr__(self): return '__import__("os")._exit(0)'
    return Odd()
""",
    "answers too deep a literal": r"""
    class Deep:
        def __repr__(self): return '(' * 30000 + ')' * 30000
    return Deep()
""",
    "answers too long a literal": r"""
    return 'x' * 10_000_000
""",
    "answers a huge number": r"""
    class Huge:
        def __repr__(self): return '9' * 60000
    return Huge()
""",
    "floods the channel": r"""
    import os
    while True:
        for fd in range(32):
            try: os.write(fd, b'x' * 65536)
            except OSError: pass
""",
    "forks for ever": r"""
    import os
    while True:
        try: os.fork()
        except OSError: pass
""",
    "loops for ever": r"""
    while True: pass
""",
    "sleeps for ever": r"""
    import time
    time.sleep(1000)
""",
    "takes all memory": r"""
    kept = []
    while True: kept.append(bytearray(1 << 24))
""",
    "fills the disk": r"""
    for name in range(9999): open(f'/tmp/{name}', 'wb').write(bytes(60000))
""",
    "kills its parents": r"""
    import os, signal
    os.kill(1, signal.SIGKILL)
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(-1, signal.SIGKILL)
""",
    "patches the driver": r"""
    import builtins, ast
    builtins.ascii = lambda value: 'True'
""",
    "recurses without end": r"""
    return double(x)
""",
    "answers drop by drop": r"""
    import os, time
    while True:
        for fd in range(3, 32):
            try: os.write(fd, b'x')
            except OSError: pass
        time.sleep(.1)
""",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_fails(attack: str, backend: str) -> None:
    started = time.monotonic()
    assert not judge(ATTACKS[attack], backend, limits=SHORT).passed
    assert time.monotonic() - started < SHORT.wall_seconds + 3


@pytest.mark.long
def test_processor_time_and_wall_time_are_told_apart_from_wrong_answers(backend: str) -> None:
    limits = LIMITS.model_copy(update={"cpu_seconds": 1})
    assert judge(ATTACKS["loops for ever"], backend, limits=limits) == Verdict(
        passed=False, reason="the processor time is up", timeout=True
    )
    assert judge(ATTACKS["sleeps for ever"], backend, limits=SHORT) == Verdict(passed=False, reason="the time is up", timeout=True)


REACHES = {
    "the home": "os.listdir('/root')",
    "the user's home": f"os.listdir({os.path.expanduser('~')!r})",
    "this project": f"os.listdir({str(Path(__file__).parents[2])!r})",
    "other processes": "os.listdir('/proc/1')",
    "the network": "__import__('socket').create_connection(('1.1.1.1', 53), 1)",
    "this machine's ports": "__import__('socket').create_connection(('127.0.0.1', 22), 1)",
    "writing to the system": "open('/usr/x', 'w')",
    "writing to the interpreter": "open('/python/x', 'w')",
    "writing to the root": "open('/x', 'w')",
    "a mount": "__import__('subprocess').run(['/usr/bin/mount', '-t', 'tmpfs', 'x', '/tmp'], check=True)",
    "root": "os.setuid(0) or 1 / os.getuid()",
    "many processes": "[os.fork() or __import__('time').sleep(2) for _ in range(5)] and [os.fork() for _ in range(20)]",
}


@pytest.mark.parametrize("reach", REACHES)
def test_a_program_cannot_reach(reach: str, backend: str) -> None:
    body = f"""
    import os
    try:
        {REACHES[reach]}
    except Exception as error:
        return type(error).__name__
    return 'reached'
"""
    found = judge(body, backend, "def check(candidate):\n    assert candidate(1) != 'reached'\n")
    assert found.passed, found.reason


def test_a_program_sees_no_environment(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    body = "    import os\n    return sorted(os.environ)\n"
    assert judge(body, backend, "def check(candidate):\n    assert 'SECRET' not in candidate(1) and len(candidate(1)) < 4\n").passed


@pytest.mark.long
def test_a_reply_that_makes_the_test_work_for_ever_is_stopped(backend: str) -> None:
    test = "def check(candidate):\n    while candidate(1): pass\n    n = 0\n    while True: n += 1\n"
    found = judge("    return 0\n", backend, test, LIMITS.model_copy(update={"wall_seconds": 1.0}))
    assert (found.passed, found.timeout) == (False, True)


def test_a_test_cannot_swallow_a_program_that_is_gone(backend: str) -> None:
    test = "def check(candidate):\n    try:\n        candidate(1)\n    except:\n        pass\n"
    assert not judge("    import os\n    os._exit(0)\n", backend, test).passed


def command_lines() -> list[bytes]:
    """Of all processes on this machine, but for those that end while we look."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return found


def test_nothing_of_a_program_is_left_when_its_verdict_is_there(backend: str) -> None:
    body = """
    import os
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            os.execv('/usr/bin/sleep', ['sleep', '987654'])
"""
    judge(body + "    return 2 * x\n", backend)
    for _ in range(20):
        if not any(b"987654" in command for command in command_lines()):
            return
        time.sleep(0.1)
    pytest.fail("a process of the sandbox lives on")


def test_programs_run_side_by_side_and_keep_their_order(backend: str) -> None:
    jobs = [
        Job(program=f"def f(): return {number}", preamble="", entry_point="f", test=f"def check(f): assert f() == {number % 3}")
        for number in range(6)
    ]
    assert [verdict.passed for verdict in sandbox.check_all(jobs, LIMITS, backend)] == [True] * 3 + [False] * 3


@pytest.mark.slow
@pytest.mark.skipif(not HUMANEVAL.is_dir(), reason="no ../shared/data/benchmarks/humaneval beside the repository")
@pytest.mark.parametrize(("body", "passing"), [("", 164), ("    pass\n", 0)])
def test_published_solutions_pass_and_empty_ones_fail(tmp_path: Path, body: str, passing: int) -> None:
    folder = described(tmp_path / "humaneval")
    file_of(folder).symlink_to(HUMANEVAL / file_of(folder).name)
    items = [item for item in kinds.read(folder) if isinstance(item, kinds.Code)]
    limits = LIMITS.model_copy(update={"wall_seconds": 30.0, "cpu_seconds": 20})
    jobs = [
        Job(program=item.prompt + (body or item.canonical_solution), preamble=item.prompt, entry_point=item.entry_point, test=item.test)
        for item in items
    ]
    assert sum(verdict.passed for verdict in sandbox.check_all(jobs, limits)) == passing
