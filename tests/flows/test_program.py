"""The program before its commands: what stands in its way, and signals while it imports."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workspaces import PROGRAMS, ROOT, environment

SLOW = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"


def beside(tmp_path, **packages):
    """A folder of packages of these names and texts."""
    for name, text in packages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    return str(tmp_path)


def sluice(*arguments, cwd, path=None):
    """The program in a process of its own, with a PYTHONPATH."""
    return subprocess.Popen(
        [PROGRAMS / "sluice", *arguments],
        cwd=cwd,
        env=environment(ROOT, **({} if path is None else {"PYTHONPATH": path})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGHUP, -1)])
def test_a_signal_ends_a_program_that_imports_without_a_word(tmp_path, sign, code):
    program = sluice("recipe", "list", cwd=tmp_path, path=beside(tmp_path, typer=SLOW))
    assert program.stdout.readline() == "importing\n"
    program.send_signal(sign)
    _, said = program.communicate(timeout=30)
    assert (program.returncode, said) == (code, "")


def test_ctrl_c_while_python_itself_starts_is_no_trace(tmp_path):
    first = (PROGRAMS / "sluice").read_text().partition("\n")[0]
    if "--block-signal" not in first:
        pytest.skip("this machine's env cannot hold a signal back")
    for thousandths in range(0, 42, 3):
        program = sluice("recipe", "list", cwd=tmp_path)
        time.sleep(thousandths / 1000)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=30)
        assert program.returncode in (130, -signal.SIGINT), thousandths
        assert "Traceback" not in said
        assert len(said.splitlines()) <= 1


def test_the_program_of_this_environment_is_that_of_this_checkout():
    assert Path(importlib.util.find_spec("sluice").origin).read_text() == (ROOT / "infra" / "sluice.py").read_text(), "run 'make setup'"


def test_ctrl_c_that_is_ignored_stays_so(tmp_path):
    command = f"trap '' INT; exec '{PROGRAMS / 'sluice'}' recipe list"
    program = subprocess.Popen(["sh", "-c", command], cwd=tmp_path, env=environment(ROOT), stdout=subprocess.PIPE, text=True)
    time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    listed, _ = program.communicate(timeout=30)
    assert (program.returncode, "nano" in listed) == (0, True)


COMMAND = """import pathlib, tempfile, time
def main():
    with tempfile.TemporaryDirectory() as folder:
        try:
            print("at work", flush=True)
            time.sleep(60)
        finally:
            print("clears up", flush=True)
            time.sleep(1)
    print("done", flush=True)
"""


INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.parametrize(
    "signs",
    [(INT,), (INT, INT, INT), (TERM,), (TERM, TERM, TERM), (HUP,), (INT, TERM)],
    ids=lambda signs: "-".join(sign.name for sign in signs),
)
def test_a_signal_within_a_command_lets_it_clear_up_whatever_follows_at_once(tmp_path, signs):
    """The program around a command of a test's own, which has a folder for temporary files."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = "import sys, types, sluice, flows.cli\nflows.cli.main = sys.modules['flows.cli.main'] = types.ModuleType('main')\n"
    run += f"{COMMAND}\nflows.cli.main.main = main\nsys.exit(sluice.main())\n"
    env = environment(ROOT, TMPDIR=str(scratch))
    program = subprocess.Popen([sys.executable, "-c", run], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert program.stdout.readline() == "at work\n"
    program.send_signal(signs[0])
    assert program.stdout.readline() == "clears up\n"
    for sign in signs[1:]:
        program.send_signal(sign)
        time.sleep(0.1)
    said, told = program.communicate(timeout=30)
    assert (program.returncode, said, told) == (128 + signs[0], "", "")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(("raised", "code"), [("KeyboardInterrupt", 130), ("SystemExit(143)", 143)])
def test_a_signal_in_a_finaliser_is_heard(raised, code):
    lost = f"class Lost:\n    def __del__(self): raise {raised}\n"
    program = f"import sys, sluice\nsys.unraisablehook = sluice._unraisable\n{lost}Lost()\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("path", ["{folder}", "", ".:"], ids=("named", "empty is the current folder", "a dot"))
def test_another_package_of_our_name_is_named(tmp_path, path):
    folder = beside(tmp_path, flows="raise RuntimeError('not yours')")
    path = path.format(folder=folder)
    if path == "":
        path = os.pathsep  # an empty entry
    program = sluice("status", cwd=tmp_path, path=path)
    _, said = program.communicate(timeout=30)
    assert (program.returncode, len(said.splitlines())) == (2, 1), said
    assert f"{tmp_path / 'flows'} is another package" in said
    assert "PYTHONPATH" in said


@pytest.mark.parametrize("text", ["", "raise RuntimeError('not\\nyours')", "import nothing_of_that_name"])
def test_a_package_of_a_library_s_name_is_named(tmp_path, text):
    program = sluice("status", cwd=tmp_path, path=beside(tmp_path, typer=text))
    _, said = program.communicate(timeout=30)
    assert (program.returncode, len(said.splitlines())) == (1, 1), said
    assert str(tmp_path / "typer" / "__init__.py") in said
