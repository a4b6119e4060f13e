"""What a flow says on the terminal never decides whether it goes on."""

import logging
import subprocess
import sys

from flows.screen import terminal

WORK = """
import sys
from flows.screen.terminal import prepare_streams

prepare_streams()
for _ in range(1000):
    print("x" * 1000)
print("done", file=sys.stderr)
"""


def test_work_goes_on_when_its_reader_leaves():
    with subprocess.Popen([sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        worker.stdout.close()
        assert worker.stderr.read() == "done\n"
    assert worker.returncode == 0


def test_words_of_dvc_stay_in_the_log_file_and_a_stage_s_own_are_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    terminal.attach(tmp_path / "run.log")
    for message in ("Running stage 'sft':", "ERROR: failed to reproduce 'sft'", "sft  started", "unmarked"):
        logging.getLogger().warning(message, extra={"sluice": message != "unmarked"})
    assert [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()] == ["sft  started"]
    assert (tmp_path / "run.log").read_text().count("\n") == 4
