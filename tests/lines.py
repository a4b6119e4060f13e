"""What a failing command may print: lines of ours, never a trace."""

import sys

from flows.cli import main


def in_one_line(arguments, capsys):
    """Run a command in this process; its exit code and what it said, checked to be in lines of ours."""
    capsys.readouterr()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # as a process of its own has them
    code = main.run_command(arguments)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "unforeseen" not in said.err, said.err
    assert code in (0, 1, 2, 3)
    assert code == 0 or all(line.startswith("sluice: ") for line in said.err.splitlines()), said.err
    return code, said.err


def assert_one_line_each(done, code, *parts):
    """A program that ended with this exit code said each part, in lines of ours alone."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert all(line.startswith("sluice: ") for line in lines), done.stderr
    for part in parts:
        assert part in done.stderr
