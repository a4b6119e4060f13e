"""Groups of processes that a flow owns."""

import os
import sys

from flows.host import processes


def test_a_group_whose_leader_has_ended_is_not_waited_for(tmp_path):
    child = processes.start([sys.executable, "-c", ""], tmp_path, dict(os.environ))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
    assert not processes._exists(child)
    processes.stop(child)


def test_a_group_outlives_its_leader(tmp_path):
    forks = "import os, sys, time; os.fork() and sys.exit(); time.sleep(60)"
    child = processes.start([sys.executable, "-c", forks], tmp_path, dict(os.environ))
    child.wait()
    assert processes._exists(child)
    processes.stop_all()
    assert not processes._exists(child)
    processes.reset()
