"""Hostile programs, each handed to the real sandbox: none forges a pass, reaches out of its place or outlives its verdict.

What a program can see and do is judged from outside. Its report reaches us through the test, which runs in the trusted checker and writes
it to a file; and what must not happen is looked for where it would happen: a file, a connection, a process, a key.
"""

import ast
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.sandbox import sandbox
from models.sandbox.sandbox import Job, ResourceLimits, Verdict

LIMITS = ResourceLimits(wall_seconds=3, cpu_seconds=2, memory_mib=256, processes=6, output_kib=64)
SHORT = LIMITS.model_copy(update={"wall_seconds": 0.9, "cpu_seconds": 1})
SPARE_SECONDS = 2.5  # over the wall limit: a second of the checker's own, and what a busy machine takes
PROJECT = Path(__file__).parents[2]
PROMPT = 'def double(x):\n    """Return twice x."""\n'
TEST = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate([1]) == [1, 1]\n"
SECRET = "hunter2-of-the-host"
SYSTEM = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def tried(function, *args):
    try:
        return function(*args)
    except BaseException as error:
        return type(error).__name__
def done(result):
    return "refused" if result in (-1, 2 ** 64 - 1) else result
"""

here = sandbox.isolation()
BACKENDS = [pytest.param(name, marks=() if name == here.backend else pytest.mark.slow) for name in sandbox.BACKENDS if shutil.which(name)]
pytestmark = [pytest.mark.long, pytest.mark.skipif(not here.backend, reason=here.reason)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def report(backend: str, tmp_path: Path) -> Callable[..., Any]:
    """Run a program; what its `report()` returns, as the checker got it."""

    def run(program: str, limits: ResourceLimits = LIMITS) -> Any:
        path = tmp_path / "report"
        test = f"def check(candidate):\n    text = ascii(candidate())\n    open({str(path)!r}, 'w').write(text)\n"
        verdict = judge(program, backend, test, limits, entry_point="report")
        assert verdict.passed, verdict.reason
        return ast.literal_eval(path.read_text())

    return run


def judge(program: str, backend: str | None, test: str = TEST, limits: ResourceLimits = LIMITS, entry_point: str = "double") -> Verdict:
    """The verdict, which must come within the limits."""
    job = Job(program=program, preamble=PROMPT, entry_point=entry_point, test=test)
    started = time.monotonic()
    (verdict,) = sandbox.check_all([job], limits, backend)
    assert time.monotonic() - started < limits.wall_seconds + SPARE_SECONDS
    return verdict


def processes(marker: str) -> list[int]:
    """Of this machine, those whose command line has the marker; ended ones have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def gone(marker: str) -> bool:
    """Whether all of them are dead within two seconds: the kernel empties a process namespace after its verdict is out."""
    for _ in range(40):
        if not processes(marker):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host with a secret in its environment and on its command line."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", SECRET], env={"SECRET": SECRET})
    yield process
    process.kill()
    process.wait()


# Programs that want a pass which they did not earn. `double` is asked for 2 and for [1].
FORGERIES = {
    "calls sys.exit": "def double(x):\n    import sys\n    sys.exit(0)",
    "calls os._exit": "import os\ndef double(x): os._exit(0)",
    "calls os._exit while loading": "import os\nos._exit(0)",
    "raises SystemExit while loading": "raise SystemExit(0)",
    "replaces itself by true": "import os\ndef double(x): os.execv('/usr/bin/true', ['true'])",
    "leaves at once after a forked child has": "import os\ndef double(x):\n    os.fork()\n    os._exit(0)",
    "kills its own group": "import os\ndef double(x): os.kill(0, 9)",
    "equals everything": """
class Same:
    __hash__ = object.__hash__
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __eq__
    __call__ = __getitem__ = __getattr__ = lambda self, *_: self
def double(x): return Same()
""",
    **{
        f"equals everything as a subclass of {kind}": f"""
class Same({kind}):
    __hash__ = {kind}.__hash__
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def double(x): return Same()
"""
        for kind in ("int", "float", "str", "bytes", "list", "dict", "tuple")
    },
    "claims another class": """
class Same:
    __class__ = property(lambda self: int)
    def __eq__(self, other): return True
def double(x): return Same()
""",
    "equals everything by its metaclass": """
class Meta(type):
    __hash__ = type.__hash__
    def __eq__(self, other): return True
class Same(metaclass=Meta): pass
def double(x): return Same
""",
    "patches built-in functions": """
import builtins
for name in ('ascii', 'repr', 'str', 'eval', 'exec', 'compile', 'isinstance', 'getattr', 'type', 'open'):
    setattr(builtins, name, lambda *args, **options: 'True')
builtins.AssertionError = builtins.Exception = builtins.BaseException = SystemExit
def double(x): return True
""",
    "patches the checker's modules": """
import ast, os, select, signal, sys, time
ast.literal_eval = eval
os.kill = select.select = signal.setitimer = time.monotonic = lambda *_: 0
sys.modules['ast'] = sys.modules['builtins']
def double(x): return True
""",
    "patches the driver": """
import sys
import tempfile
driver = sys.modules['__main__']
driver.read = lambda line: ((2,), {})
driver.ascii = lambda value: 'True'
driver.must = driver.serve = driver.confine = lambda *_: None
def double(x): return True
""",
    "rewrites the driver's frame": """
import sys
import tempfile
frame = sys._getframe()
while frame:
    frame.f_globals['ascii'] = lambda value: 'True'
    for value in list(frame.f_locals.values()):
        if isinstance(value, dict):
            value.update(failure='', passed=True, reason='', timeout=False)
    frame = frame.f_back
def double(x): return True
""",
    "hooks imports": """
import sys
import tempfile
class Finder:
    def find_spec(self, *_): sys.exit(0)
sys.meta_path.insert(0, Finder())
sys.path_hooks.clear(); sys.modules.clear()
def double(x): import json
""",
    "hooks exits, exceptions and traces": """
import atexit, os, sys, threading
win = lambda *_: [os.write(fd, b'=True\\n') for fd in (3, 4)] and os._exit(0)
atexit.register(win)
sys.excepthook = sys.unraisablehook = threading.excepthook = win
sys.settrace(win); sys.setprofile(win)
def double(x): return True
""",
    "catches everything": """
def double(x):
    while True:
        try:
            raise BaseException
        except BaseException:
            return x
""",
    "raises AssertionError": "def double(x): raise AssertionError",
    "raises what looks like a verdict": """
class Passed(BaseException): pass
Passed.__name__ = 'StopIteration\\n=4\\n=[1, 1'
def double(x): raise Passed
""",
    "prints success": """
import sys
import tempfile
def double(x):
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        print("{'passed': True, 'reason': '', 'timeout': False}", 'OK', '1 passed', file=stream, flush=True)
""",
    "writes a verdict on every descriptor": """
import os
def double(x):
    for fd in range(64):
        try: os.write(fd, b"{'passed': True, 'reason': '', 'timeout': False}\\n")
        except OSError: pass
    os._exit(0)
""",
    "writes replies of its own ahead of the calls": """
import os
for fd in range(3, 32):
    try: os.write(fd, b"=True\\n=object\\n!StopIteration\\n=0\\n" * 50)
    except OSError: pass
def double(x): return x
""",
    "answers from threads": """
import os, threading
def flood():
    while True:
        for fd in (3, 4):
            try: os.write(fd, b'=True\\n')
            except OSError: pass
for _ in range(4): threading.Thread(target=flood, daemon=True).start()
def double(x): return x
""",
    "answers in pickle": """
import os, pickle
class Evil:
    def __reduce__(self): return (os._exit, (0,))
for fd in (3, 4):
    try: os.write(fd, b'=' + pickle.dumps(Evil()) + b'\\n' + pickle.dumps(Evil(), 0).replace(b'\\n', b'') + b'\\n')
    except OSError: pass
def double(x): return Evil()
""",
    "is not text": "def double(x): return '\\ud800\\x00'\nx = '\ud800'",
    "is too deep to compile": "def double(x): return " + "(" * 5000 + ")" * 5000,
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_passes_nothing(forgery: str, backend: str) -> None:
    assert not judge(FORGERIES[forgery], backend, limits=SHORT).passed


LITERALS = {
    "a call": "__import__('os').abort()",
    "a name": "candidate",
    "an attribute": "(1).__class__",
    "a lambda": "(lambda: 4)()",
    "a comprehension": "[x for x in (1,)]",
    "a formatted string": "f'{exit(0)}'",
    "a walrus": "(check := print)",
    "a power": "9 ** 9 ** 9",
    "a repetition": "'x' * 2 ** 40",
    "a number of many digits": "9" * 60_000,
    "a number of many bits": "0x" + "f" * 60_000,
    "brackets in brackets": "[" * 150 + "]" * 150,
    "too many brackets": "(" * 30_000 + ")" * 30_000,
    "dictionaries in dictionaries": "{1:" * 199 + "1" + "}" * 199,
    "a row of minuses": "-" * 60_000 + "1",
    "a row of nots": "not " * 15_000 + "1",
    "a long sum": "1" + "+1j" * 20_000,
    "a chain of attributes": "a" + ".a" * 30_000,
    "a chain of conditions": "1 if 1 else " * 5_000 + "1",
    "a wide list": "[" + "[]," * 20_000 + "]",
    "keys that collide": "{" + ",".join(str(number * (2**61 - 1)) for number in range(1, 2500)) + "}",
    "an unhashable key": "{[]: 1}",
    "a zero byte": "4\0",
    "another line": "4\r\n=4",
    "a longer line than may be": "[" + "4," * 100_000 + "]",
}


@pytest.mark.parametrize("literal", LITERALS)
def test_a_reply_of_odd_literals_passes_nothing_and_ends_in_time(literal: str) -> None:
    program = f"class Odd:\n    def __repr__(self): return {LITERALS[literal]!r}\ndef double(x): return Odd()"
    assert not judge(program, here.backend, limits=SHORT).passed


@pytest.mark.parametrize("error", ["StopIteration", "StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt", "SystemExit"])
def test_an_exception_that_ends_a_loop_ends_no_test(error: str) -> None:
    test = "def check(candidate):\n    assert all(map(lambda pair: candidate(pair[0]) == pair[1], [(2, 4), (3, 6)]))\n"
    assert not judge(f"def double(x): raise {error}", here.backend, test).passed
    assert judge("def double(x): return 2 * x", here.backend, test).passed


# Programs that want more than they may use. None answers rightly; each must be over in time.
FLOODS = {
    "loops": "def double(x):\n    while True: pass",
    "loops while loading": "while True: pass",
    "loops in C": "def double(x): return 9 ** 9 ** 9",
    "loops and ignores every signal": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def double(x):
    while True: pass
""",
    "sleeps": "import time\ndef double(x): time.sleep(1000)",
    "stops itself": "import os, signal\ndef double(x): os.kill(os.getpid(), signal.SIGSTOP)",
    "takes memory": "def double(x):\n    kept = []\n    while True: kept.append(bytearray(1 << 24))",
    "doubles a string": "def double(x):\n    text = 'x'\n    while True: text += text",
    "prints on both streams for ever": """
import os, sys
def double(x):
    while True:
        os.write(1, b'x' * 65536); os.write(2, b'x' * 65536)
        print('x' * 65536, file=sys.stderr)
""",
    "writes on every descriptor for ever": """
import os
def double(x):
    while True:
        for fd in range(32):
            try: os.write(fd, b'x' * 65536)
            except OSError: pass
""",
    "drips": """
import os, time
def double(x):
    while True:
        for fd in (3, 4):
            try: os.write(fd, b'4')
            except OSError: pass
        time.sleep(.05)
""",
    "reads its own calls away": """
import os
for fd in (3, 4):
    try: os.read(fd, 65536)
    except OSError: pass
def double(x): return 4
""",
    "forks for ever": "import os\ndef double(x):\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "starts threads for ever": """
import threading, time
def double(x):
    while True:
        try: threading.Thread(target=time.sleep, args=(1000,)).start()
        except RuntimeError: pass
""",
    "recurses": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef double(x): return double(x)",
    "recurses in C": """
class Deep:
    def __repr__(self): return repr([self])
import sys
import tempfile
sys.setrecursionlimit(10 ** 9)
def double(x): return Deep()
""",
    "answers a number that takes long to print": "import sys\nsys.set_int_max_str_digits(0)\ndef double(x): return 10 ** 3_000_000",
    "answers ten megabytes": "def double(x): return 'x' * 10_000_000",
}


def test_every_flood_ends_in_time_and_passes_nothing(backend: str) -> None:
    jobs = [Job(program=program, preamble=PROMPT, entry_point="double", test=TEST) for program in FLOODS.values()]
    started = time.monotonic()
    verdicts = sandbox.check_all(jobs, SHORT, backend)
    rounds = -(-len(jobs) // len(os.sched_getaffinity(0)))
    assert time.monotonic() - started < rounds * SHORT.wall_seconds + SPARE_SECONDS
    assert [name for name, verdict in zip(FLOODS, verdicts, strict=True) if verdict.passed] == []


def test_a_loop_that_ignores_its_limit_of_processor_time_is_killed_a_second_later() -> None:
    limits = LIMITS.model_copy(update={"wall_seconds": 20, "cpu_seconds": 1})
    verdict = judge(FLOODS["loops and ignores every signal"], here.backend, limits=limits)
    assert (verdict.passed, verdict.timeout) == (False, False)  # not the wall's end


def test_more_memory_than_the_limit_is_not_to_be_had(report: Callable[..., Any]) -> None:
    took, shared = report(
        SYSTEM
        + """
libc.shmat.restype = ctypes.c_void_p
def report():
    kept = []
    try:
        while True: kept.append(bytearray(1 << 20))
    except MemoryError:
        took = len(kept)
    kept.clear()
    shared = 0
    for _ in range(4):  # outside the address space once it is detached
        segment = libc.shmget(0, 100 << 20, 0o1600)
        if segment < 0: break
        address = libc.shmat(segment, None, 0)
        ctypes.memset(address, 1, 100 << 20)
        libc.shmdt(ctypes.c_void_p(address))
        shared += 100
    return took, shared
"""
    )
    assert 0 < took < LIMITS.memory_mib
    assert shared == 0


def test_the_private_folder_has_an_end_in_bytes_in_files_and_in_the_size_of_one(report: Callable[..., Any]) -> None:
    largest, total, files = report(
        """
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def fill(size):
    count = written = 0
    try:
        while count < 20_000:
            fd = os.open(f'/tmp/{size}-{count}', os.O_CREAT | os.O_WRONLY)
            try: written += os.write(fd, bytes(size))
            finally: os.close(fd)
            count += 1
    except OSError: pass
    for name in os.listdir('/tmp'): os.remove('/tmp/' + name)
    return count, written
def report():
    fd = os.open('/tmp/one', os.O_CREAT | os.O_WRONLY)
    try:
        while True: os.write(fd, bytes(65536))
    except OSError: pass
    largest = os.fstat(fd).st_size
    return largest, fill(60_000)[1], fill(0)[0]
"""
    )
    assert 0 < largest <= LIMITS.output_kib << 10
    assert 0 < total <= sandbox.TMP_BYTES
    assert 0 < files <= sandbox.TMP_FILES


def test_forks_and_threads_share_one_limit(report: Callable[..., Any]) -> None:
    program = """
import os, threading, time
def report():
    count = 0
    try:
        while count < 50:
            if count % 2: threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
            elif os.fork() == 0: time.sleep(1); os._exit(0)
            count += 1
    except (OSError, RuntimeError): pass
    return count
"""
    assert 0 < report(program) < LIMITS.processes


# Each starts what should outlive it, and answers; the marker is the argument of a sleep that is looked for from outside.
DAEMONS = {
    "a child": "if os.fork() == 0: stay()",
    "a session of its own": "if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0: stay()\n        os._exit(0)",
    "a child that ignores every signal": """if os.fork() == 0:
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        stay()""",
    "a thread's child": "threading.Thread(target=lambda: os.fork() or stay()).start()",
    "a stopped child": "child = os.fork() or stay()\n    time.sleep(.1)\n    os.kill(child, signal.SIGSTOP)",
}


@pytest.mark.parametrize("daemon", DAEMONS)
def test_what_a_program_starts_dies_with_it(daemon: str, backend: str) -> None:
    marker = f"98.765{list(DAEMONS).index(daemon)}4321"
    program = f"""
import os, signal, threading, time
def stay(): os.execv('/usr/bin/sleep', ['sleep', '{marker}'])
def double(x):
    {DAEMONS[daemon]}
    time.sleep(.2)
    return x
"""
    test = f"""
import contextlib, glob
def check(candidate):
    candidate(1)
    for path in glob.glob('/proc/[0-9]*/cmdline'):
        with contextlib.suppress(OSError):
            if b'{marker}' in open(path, 'rb').read(): return
    assert False
"""
    assert judge(program, backend, test).passed  # while it ran, the child was there
    assert gone(marker)


def test_a_program_does_not_outlive_a_sluice_and_a_checker_that_were_killed(backend: str) -> None:
    marker = "98.76599321"  # which the command below must not have in one piece
    program = "import os\ndef double(x):\n    os.fork() or os.setsid()\n    os.execv('/usr/bin/sleep', ['sleep', '98.765' '99321'])"
    job = Job(program=program, preamble=PROMPT, entry_point="double", test=TEST)
    call = f"sandbox.check_all([sandbox.Job(**{job.model_dump()!r})], sandbox.ResourceLimits(**{SHORT.model_dump()!r}), {backend!r})"
    sluice = subprocess.Popen([sys.executable, "-c", f"from models.sandbox import sandbox; {call}"], cwd=PROJECT)
    while not processes(marker) and sluice.poll() is None:
        time.sleep(0.02)
    parent = f"PPid:\t{sluice.pid}\n"
    checkers = [pid for pid in processes(str(sandbox.CHECKER)) if parent in Path(f"/proc/{pid}/status").read_text()]
    for pid in (sluice.pid, *checkers):
        os.kill(pid, signal.SIGKILL)
    assert sluice.wait() == -signal.SIGKILL  # before it had a verdict
    assert gone(marker)


def test_signals_reach_nobody_outside(backend: str, bystander: subprocess.Popen[bytes]) -> None:
    program = f"""
import os, signal
def double(x):
    others = {{1, {os.getpid()}, {bystander.pid}, os.getppid(), *range(2, 400)}} - {{os.getpid()}}
    for target, number in [*((other, signal.SIGSTOP) for other in others), *((other, signal.SIGKILL) for other in others), (-1, 9), (0, 9)]:
        try: os.kill(target, number)
        except OSError: pass
"""
    verdict = judge(program, backend, limits=SHORT)
    assert not verdict.passed
    assert not verdict.timeout  # the checker lived to say so
    assert bystander.poll() is None


def test_a_process_group_ends_at_the_border(report: Callable[..., Any]) -> None:
    assert report("import os\ndef report(): return os.getpid() == os.getpgid(0) == os.getsid(0)\n")


def test_no_other_process_is_to_be_traced_or_read(report: Callable[..., Any], bystander: subprocess.Popen[bytes]) -> None:
    found = report(
        SYSTEM
        + f"""
def report():
    libc.ptrace.restype = ctypes.c_long
    word = ctypes.create_string_buffer(64)
    parts = (ctypes.c_void_p * 2)(ctypes.addressof(word), 64)
    results = []
    for pid in (1, os.getppid(), {bystander.pid}, {os.getpid()}):
        results += [done(libc.ptrace(16, pid, None, None)), done(libc.process_vm_readv(pid, parts, 1, parts, 1, 0))]
        results += [done(libc.process_vm_writev(pid, parts, 1, parts, 1, 0))]
        results += [tried(open, f'/proc/{{pid}}/{{name}}') for name in ('mem', 'environ', 'cmdline', 'maps')]
    return results
"""
    )
    assert set(found) == {"refused", "FileNotFoundError"}
    assert bystander.poll() is None


def test_nothing_of_the_host_is_to_be_read(
    report: Callable[..., Any], bystander: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("SECRET", SECRET)
    found = report(
        f"""
import os
def report():
    texts, names = [repr(dict(os.environ)), repr(__import__('sys').argv), os.getcwd()], []
    paths = ['/proc/self/environ', '/proc/1/environ', '/proc/{bystander.pid}/environ', '/proc/{os.getpid()}/environ', '/etc/shadow',
             '/etc/passwd', '/proc/{bystander.pid}/cmdline', '/proc/kcore', '/dev/mem', '/sys/kernel/notes', {str(tmp_path / "secret")!r},
             {str(PROJECT / "pyproject.toml")!r}, '/old/etc/shadow', '/tmp/../../../etc/shadow']
    for folder, folders, files in os.walk('/'):
        folders[:] = [name for name in folders if not (folder == '/' and name in 'usr python lib lib64 lib32 libx32'.split())]
        names += [os.path.join(folder, name) for name in folders + files]
    for path in paths:
        try: texts.append(open(path, errors='replace').read())
        except OSError: pass
    return texts, names
"""
    )
    texts, names = found
    assert SECRET not in "".join(texts)
    assert len(texts) == 3, "a file of the host was opened"
    assert set(names) <= {"/tmp", "/dev", "/old", "/proc", "/lib", "/lib32", "/lib64", "/libx32", *sandbox.DEVICES}


def test_links_and_open_folders_lead_nowhere(report: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    found = report(
        SYSTEM
        + f"""
def report():
    os.symlink({str(tmp_path)!r}, '/tmp/out')
    os.symlink('/proc/1/root', '/tmp/host')
    results = [tried(open, path, mode) for path in ('/tmp/out/secret', '/tmp/host/etc/passwd') for mode in ('r', 'w')]
    for fd in range(64):  # a folder left open would lead out
        results.append(tried(lambda: os.open('..', os.O_RDONLY, dir_fd=fd)))
    results += [tried(os.link, '/usr/bin/env', '/tmp/env'), tried(os.rename, '/usr/bin/env', '/tmp/env')]
    return results + [tried(os.chroot, '/tmp'), tried(os.mknod, '/tmp/disk', 0o60600, os.makedev(8, 0))]
"""
    )
    assert set(found) <= {"FileNotFoundError", "PermissionError", "NotADirectoryError", "OSError"}
    assert (tmp_path / "secret").read_text() == SECRET


def test_nothing_is_written_outside_the_private_folder(report: Callable[..., Any], tmp_path: Path) -> None:
    name = f"written-{os.getpid()}"
    folders = ["/", "/usr", "/usr/bin", "/usr/local", "/python", "/python/lib", "/dev", "/dev/shm", "/var/tmp", "/run", "/old"]
    folders += [str(PROJECT), str(tmp_path), os.getcwd(), os.path.expanduser("~")]
    found = report(
        SYSTEM
        + f"""
def report():
    results = [tried(open, folder + '/{name}', 'w') for folder in {folders!r}]
    results += [tried(open, path, 'r+') for path in ('/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/proc/self/mem', '/usr/bin/env')]
    open('/tmp/{name}', 'w').write('here')
    open('{name}', 'a').write('here')
    return results, tried(os.chmod, '/usr/bin/env', 0o777), tried(os.utime, '/python')
"""
    )
    results, changed, touched = found
    assert set(results) <= {"FileNotFoundError", "PermissionError", "OSError"}
    assert {changed, touched} <= {"PermissionError", "OSError"}
    assert not [folder for folder in [*folders, "/tmp"] if Path(folder, name).exists()]


def test_no_socket_reaches_the_host(report: Callable[..., Any], tmp_path: Path) -> None:
    abstract = f"\0sluice-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        kinds = [(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)), (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))]
        kinds += [(socket.AF_UNIX, socket.SOCK_STREAM, abstract), (socket.AF_UNIX, socket.SOCK_STREAM, str(tmp_path / "socket"))]
        doors = []
        for family, kind, address in kinds:
            door = stack.enter_context(socket.socket(family, kind))
            door.bind(address)
            door.setblocking(False)
            if kind == socket.SOCK_STREAM:
                door.listen()
            doors.append(door)
        targets = [(int(door.family), int(door.type), door.getsockname()) for door in doors]
        found = report(
            f"""
import socket
def knock(family, kind, address):
    try:
        with socket.socket(family, kind) as end:
            end.settimeout(1)
            end.connect(address)
            end.send(b'hello')
        return 'reached'
    except OSError:
        return 'refused'
def make(family, kind):
    try:
        socket.socket(family, kind)
        return 'made'
    except OSError:
        return 'refused'
def report():
    others = [(family, kind) for family in range(2, 46) for kind in (1, 2, 3, 5)]
    return [knock(*target) for target in {targets!r}], [pair for pair in others if make(*pair) == 'made']
"""
        )
        assert found == (["refused"] * len(doors), [])  # not even one of AF_VSOCK, which no network namespace holds
        for door in doors:
            with pytest.raises(BlockingIOError):
                door.accept() if door.type == socket.SOCK_STREAM else door.recv(1)


def test_a_pair_of_sockets_and_an_event_loop_still_work(report: Callable[..., Any]) -> None:
    program = """
import asyncio, socket, subprocess
from concurrent.futures import ThreadPoolExecutor
def report():
    a, b = socket.socketpair()
    a.send(b'x')
    async def late(): await asyncio.sleep(0.01); return 4
    with ThreadPoolExecutor(2) as pool: total = sum(pool.map(abs, [-1, -2]))
    said = subprocess.run(['/usr/bin/echo', 'hello'], stdin=subprocess.DEVNULL, capture_output=True).stdout
    return b.recv(1), asyncio.run(late()), total, said
"""
    assert report(program) == (b"x", 4, 3, b"hello\n")


def test_the_keys_of_who_started_it_are_not_its_own(report: Callable[..., Any]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    add, join, search, read = {"x86_64": (248, 1, 10, 11), "aarch64": (217, 1, 10, 11)}[os.uname().machine]
    keyctl = add + 2
    if libc.syscall(keyctl, join, None) < 0 or libc.syscall(add, b"user", b"sluice", SECRET.encode(), ctypes.c_size_t(len(SECRET)), -3) < 0:
        pytest.skip("this kernel gives us no keyring")
    program = f"""{SYSTEM}
def report():
    text = ctypes.create_string_buffer(100)
    key = libc.syscall({keyctl}, {search}, -3, b'user', b'sluice', 0)
    return done(libc.syscall({keyctl}, {read}, key, text, 100)), text.value, done(libc.syscall({add}, b'user', b'x', b'x', 1, -3))
"""
    assert report(program) == ("refused", b"", "refused")


SYSTEM_CALLS = {
    "a user namespace": "libc.unshare(0x10000000)",
    "a mount in a namespace of its own": "libc.unshare(0x10020000) or libc.mount(b'x', b'/tmp', b'tmpfs', 0, b'size=1g')",
    "a child in a user namespace": "libc.syscall(CLONE, 0x10000000 | 17, None, None, None, None) or os._exit(0)",
    "a mount": "libc.mount(b'x', b'/tmp', b'tmpfs', 0, None)",
    "a remount of the system": "libc.mount(None, b'/usr', None, 32 | 4096, None)",
    "an unmount": "libc.umount2(b'/tmp', 2)",
    "shared memory": "libc.shmget(0, 4096, 0o1600)",
    "a message queue": "libc.msgget(0, 0o1600)",
    "semaphores": "libc.semget(0, 100, 0o1600)",
    "the kernel's log": "libc.klogctl(3, ctypes.create_string_buffer(100), 100)",
    "a watch on the host's files": "libc.inotify_init()",
    "root by setuid": "libc.setuid(0)",
    "root by setresuid": "libc.setresuid(0, 0, 0)",
    "root's group": "libc.setgid(0)",
    "its rights back": "libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(1 << 21, 1 << 21, 0, 0, 0, 0))",
    "another clock": "libc.clock_settime(0, (ctypes.c_long * 2)(0, 0))",
    "another name": "libc.sethostname(b'x', 1)",
    "more processes": "__import__('resource').setrlimit(6, (1000, 1000))",
    "more memory": "__import__('resource').setrlimit(9, (-1, -1))",
    "a way past the filter": "libc.prctl(22, 0, None, 0, 0)",
    "a call by its number in another table": "libc.syscall(0x40000000 + 272, 0x10000000)",
}


@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_the_kernel_refuses(call: str, report: Callable[..., Any]) -> None:
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    found = report(f"{SYSTEM}CLONE = {clone}\ndef report(): return done(tried(lambda: {SYSTEM_CALLS[call]}))\n")
    if call.startswith("root") and os.geteuid() != 0:
        assert found in ("refused", 0)  # by unshare the root of its own namespace, without rights
    else:
        assert found in ("refused", "ValueError", "PermissionError")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="no second set of system calls on this machine")
def test_a_call_of_the_32_bit_kind_ends_the_program(backend: str) -> None:
    program = """
import ctypes, mmap
code = bytes.fromhex('53 b836010000 bb00000010 cd80 5b c3')  # unshare(CLONE_NEWUSER) by int 0x80
page = mmap.mmap(-1, 4096, prot=7)
page.write(code)
call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
def double(x):
    call()
    return 2 * x
"""
    test = "def check(candidate):\n    candidate(2)\n"
    assert not judge(program, backend, test).passed
    assert judge(program.replace("cd80", "9090"), backend, test).passed


def test_a_program_holds_no_rights(report: Callable[..., Any]) -> None:
    program = f"""{SYSTEM}
def report():
    held = ctypes.create_string_buffer(24)
    libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), held)
    return held.raw, libc.prctl(39, 0, 0, 0, 0), os.getgroups()
"""
    held, no_new_rights, groups = report(program)
    assert (held, no_new_rights) == (bytes(24), 1)
    assert os.geteuid() != 0 or groups == []


def test_the_expected_answers_are_nowhere_in_a_program_s_process(backend: str) -> None:
    program = """
import gc, inspect, sys
def texts():
    frame = sys._getframe()
    while frame:
        yield repr(frame.f_locals) + repr(frame.f_globals) + repr(frame.f_code.co_consts)
        frame = frame.f_back
    for module in list(sys.modules.values()): yield repr(vars(module))
    for found in gc.get_objects(): yield repr(found)[:100_000]
    for stack in inspect.stack(): yield repr(stack)
    yield repr((sys.argv, sys.orig_argv))
def report(x):
    return sorted({mark[::-1] for text in texts() for mark in ('66915-eldeen', 'llac-nwo') if mark in text[::-1]})  # not to find itself
"""
    test = "def check(candidate):\n    found = candidate('own-call')\n    assert found == ['own-call'], 'needle-51966'\n"
    verdict = judge(program, backend, test, entry_point="report")
    assert verdict.passed, verdict.reason


def test_sandboxes_side_by_side_do_not_see_each_other(backend: str) -> None:
    program = """
import os, time
def f():
    open('/tmp/here', 'x').write('x')
    time.sleep(.5)
    return os.listdir('/tmp'), [pid for pid in range(1, 400) if tried(pid)]
def tried(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    except PermissionError: return True
    return True
"""
    test = "def check(f):\n    names, pids = f()\n    assert names == ['here'] and len(pids) < 5\n"
    jobs = [Job(program=program, preamble="", entry_point="f", test=test) for _ in range(4)]
    assert [verdict.reason for verdict in sandbox.check_all(jobs, LIMITS, backend)] == [""] * 4


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core runs one program at a time")
def test_as_many_programs_run_at_once_as_there_are_cores(backend: str) -> None:
    cores = len(os.sched_getaffinity(0))
    job = Job(program="import time\ndef f(): time.sleep(1)", preamble="", entry_point="f", test="def check(f): f()")
    started = time.monotonic()
    assert all(verdict.passed for verdict in sandbox.check_all([job] * cores, LIMITS, backend))
    assert time.monotonic() - started < min(cores, 3) * 1.0


def test_a_machine_whose_system_calls_are_unknown_isolates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(os.uname())
    monkeypatch.setattr(os, "uname", lambda: os.uname_result([*names[:4], "vax"]))
    found = sandbox.isolation.__wrapped__()
    assert found.backend is None
    assert "x86_64 and aarch64" in found.reason


@pytest.mark.parametrize("parent", ["/usr/local", sys.base_prefix])
def test_a_project_below_what_is_shown_is_hidden(
    parent: str, report: Callable[..., Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not os.access(parent, os.W_OK):
        pytest.skip(f"{parent} cannot be written to")
    with tempfile.TemporaryDirectory(dir=parent) as name:
        os.chmod(name, 0o755)
        Path(name, "answers").write_text(SECRET)
        monkeypatch.chdir(name)
        monkeypatch.setitem(sandbox.BACKENDS, backend, sandbox.BACKENDS[backend].__wrapped__)  # type: ignore[attr-defined]
        places = [name, name.replace(str(Path(sys.base_prefix).resolve()), "/python", 1)]
        program = "import os\ndef report(): return [os.listdir(p) for p in PLACES if os.path.isdir(p)]".replace("PLACES", repr(places))
        found = report(program)
        monkeypatch.chdir("/")
    assert found
    assert not any(found)


def test_no_lock_or_watch_reaches_a_file_of_the_host(report: Callable[..., Any]) -> None:
    program = """
import fcntl, os
def tried(function, *args):
    try:
        function(*args)
    except OSError as error:
        return error.errno
def report():
    place = os.open("/usr/bin", os.O_RDONLY)
    lock, watch = tried(fcntl.flock, place, fcntl.LOCK_EX), tried(fcntl.fcntl, place, fcntl.F_NOTIFY, fcntl.DN_ACCESS)
    file = os.open("/usr/bin/env", os.O_RDONLY)
    locks = [tried(fcntl.lockf, file, fcntl.LOCK_SH | fcntl.LOCK_NB), tried(fcntl.fcntl, file, 37, bytes(32))]
    lease = tried(fcntl.fcntl, file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    return [lock, watch, *locks, lease, fcntl.fcntl(place, fcntl.F_GETFD)]
"""
    assert report(program) == [1, 1, 1, 1, 1, 1]


def test_nothing_that_the_machine_has_once_is_taken(report: Callable[..., Any]) -> None:
    program = """
import ctypes, os
LIBC = ctypes.CDLL(None, use_errno=True)
def refused(*call):
    return LIBC.syscall(*call) == -1 and ctypes.get_errno() == 1
def report():
    context, machine = ctypes.c_ulong(), os.uname().machine
    io_setup, syncfs = (206, 306) if machine == "x86_64" else (0, 267)
    return [refused(io_setup, 60000, ctypes.byref(context)), refused(syncfs, 0), refused(457, 0, 0, 0, 0), refused(458, 0, 0, 0, 0)]
"""
    assert report(program) == [True] * 4


def test_no_listener_in_a_folder_that_is_shown_is_reached(report: Callable[..., Any]) -> None:
    if not os.access("/usr/local", os.W_OK):
        pytest.skip("/usr/local cannot be written to")
    with tempfile.TemporaryDirectory(dir="/usr/local") as name, socket.socket(socket.AF_UNIX) as door:
        os.chmod(name, 0o755)
        door.bind(f"{name}/door")
        os.chmod(f"{name}/door", 0o777)
        door.listen()
        program = f"""
import os, socket
def report():
    tried = []
    for make in (lambda: socket.socket(socket.AF_UNIX), lambda: socket.socketpair(socket.AF_INET)):
        try:
            make()
        except OSError as error:
            tried.append(error.errno)
    return [os.path.exists({name!r}), *tried]
"""
        assert report(program)[1:] == [1, 1]


def test_what_a_program_says_of_itself_is_short_and_plain(backend: str) -> None:
    forged = "import os\nos.write(4, b'?' + bytes([27]) + b']0;x' + bytes([7]) + b'A' * 60000 + bytes([10]))\ndef f(): return 1"
    late = "import os\ndef f():\n    os.write(4, b'=1' + bytes([10]) + b'?no' + bytes([10]))\n    return 1"
    test = "def check(f):\n    assert f() == 1\n    assert f() == 1\n"
    jobs = [Job(program=program, preamble="", entry_point="f", test=test) for program in (forged, late)]
    told, later = sandbox.check_all(jobs, LIMITS, backend)
    assert not told.passed
    assert len(told.reason) < 150
    assert told.reason.isprintable()
    assert (later.passed, later.loaded) == (False, True)


def test_a_number_beyond_all_is_no_literal(backend: str) -> None:
    program = "import os\ndef f():\n    os.write(4, b'=' + b'9' * 400 + b'+1j' + bytes([10]))"
    verdict = sandbox.check_all([Job(program=program, preamble="", entry_point="f", test="def check(f): f()")], LIMITS, backend)[0]
    assert not verdict.passed
    assert "not a literal" in verdict.reason
