"""Who waits for whom: two clones for a device of the machine, two processes for a stage, a flow for stages that are run by hand."""

import contextlib
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.host import slots
from flows.host.workspace import Workspace
from flows.stages.session import exclusive
from models.core.errors import UserError
from tests.mlflow_server import begin, drill_workspace, wait_for

ROOT = Path(__file__).parents[2]
TAKE = """
import sys, time
from pathlib import Path
from flows.host import slots
from flows.host.workspace import Workspace
with slots.slot(Workspace(Path(sys.argv[1])), "gpu", lambda line: print(line, flush=True)):
    print("has it", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def shared(tmp_path, monkeypatch):
    monkeypatch.setenv(slots.VARIABLE, str(tmp_path / "shared"))
    return tmp_path / "shared"


@contextlib.contextmanager
def taker(clone, seconds):
    """A process that holds the slot for some seconds, or until the block ends."""
    command = [sys.executable, "-c", TAKE, str(clone), str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def test_two_clones_wait_for_each_other_and_a_killed_one_leaves_its_slot(tmp_path, shared):
    with taker(tmp_path / "one", 600) as first:
        assert first.stdout.readline() == "has it\n"
        with taker(tmp_path / "other", 0) as second:
            assert "waits for its turn: the processor of this machine" in second.stdout.readline()
            first.kill()
            assert second.stdout.readline() == "has it\n"
    assert len(list(shared.iterdir())) == 1


def test_the_cpu_pool_waits_for_nobody(tmp_path, shared):
    with slots.slot(Workspace(tmp_path), "cpu", print):
        assert not shared.exists()


def test_the_folder_is_the_machines_and_none_that_only_some_may_write_to(tmp_path, monkeypatch):
    monkeypatch.delenv(slots.VARIABLE, raising=False)
    own, open_to_all, sticky = (tmp_path / name for name in ("own", "open", "sticky"))
    for folder, mode in ((own, 0o755), (open_to_all, 0o777), (sticky, 0o1777)):
        folder.mkdir()
        folder.chmod(mode)
    monkeypatch.setattr(slots, "FOLDERS", (str(tmp_path / "none"), str(own), str(open_to_all), str(sticky)))
    assert slots.shared_folders() == [sticky]
    with slots.slot(Workspace(tmp_path), "gpu", print):
        [lock] = sticky.iterdir()
        assert stat.S_IMODE(lock.stat().st_mode) == 0o644


def plant(place, kind, target):
    target.write_text("somebody's own")
    if kind == "link":
        place.symlink_to(target)
    elif kind == "hard link":
        os.link(target, place)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
def test_what_another_user_planted_is_neither_followed_nor_waited_for(tmp_path, shared, kind):
    shared.mkdir()
    plant(shared / "sluice-processor.lock", kind, tmp_path / "target")
    said = []
    with slots.slot(Workspace(tmp_path), "gpu", said.append):
        assert "goes on without waiting for other clones" in said[0]
    assert (tmp_path / "target").read_text() == "somebody's own"


def test_a_folder_that_cannot_be_written_to_or_made_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    said = []
    for folder in (tmp_path / "file" / "below", Path("/proc/none")):
        monkeypatch.setenv(slots.VARIABLE, str(folder))
        with slots.slot(Workspace(tmp_path), "gpu", said.append), pytest.raises(BlockingIOError):
            held_in_this_workspace(tmp_path)
    assert len(said) == 2


def held_in_this_workspace(root):
    import fcntl

    with (root / ".sluice" / "locks" / "pool-gpu.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_was_cleaned_away_while_it_was_waited_for_is_taken_anew(tmp_path, shared):
    with taker(tmp_path / "one", 600) as first:
        assert first.stdout.readline() == "has it\n"
        with taker(tmp_path / "other", 600) as second:
            assert "waits" in second.stdout.readline()
            (shared / "sluice-processor.lock").unlink()
            first.kill()
            assert second.stdout.readline() == "has it\n"
            with taker(tmp_path / "third", 0) as third:
                assert "waits" in third.stdout.readline()


def cards(folder, *uuids):
    for number, uuid in enumerate(uuids):
        (folder / f"0000:{number:02}:00.0").mkdir(parents=True)
        (folder / f"0000:{number:02}:00.0" / "information").write_text(
            f"Model: \t\t NVIDIA H100\nIRQ: \t 1\nGPU UUID: \t {uuid}\nDMA Size: 52\n"
        )
    return folder


@pytest.mark.parametrize(
    ("visible", "name"),
    [
        (None, "GPU-aa-1"),
        ("1", "GPU-bb-2"),
        ("1,0", "GPU-bb-2"),
        ("GPU-bb", "GPU-bb-2"),
        ("GPU-bb-2", "GPU-bb-2"),
        ("MIG-cc/1/2", "MIG-cc-1-2"),
        ("7", "gpu-7"),
        ("", "processor"),
        ("-1", "processor"),
    ],
)
def test_the_slot_is_the_devices_however_it_is_named(tmp_path, monkeypatch, visible, name):
    monkeypatch.setattr(slots, "CARDS", cards(tmp_path, "GPU-aa-1", "GPU-bb-2"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots.device_name() == name


def test_a_flow_waits_for_no_stage_that_is_run_by_hand_and_such_stages_run_beside_each_other(tmp_path):
    workspace = Workspace(tmp_path)
    by_hand, refused = slots.beside_no_flow, pytest.raises(UserError, match="a stage that was started by hand")
    with by_hand(workspace), by_hand(workspace), refused, exclusive(workspace):
        pass
    with exclusive(workspace), pytest.raises(UserError, match=f"process {os.getpid()}"), slots.beside_no_flow(workspace):
        pass


def test_a_stage_is_at_work_once_in_a_workspace_and_others_beside_it(tmp_path):
    workspace, said, order = Workspace(tmp_path), [], []

    def second():
        with slots.stage_slot(workspace, "stage-prepare", said.append):
            order.append("second")

    with slots.stage_slot(workspace, "stage-prepare", said.append), slots.stage_slot(workspace, "stage-base", said.append):
        thread = threading.Thread(target=second)
        thread.start()
        while not said:
            time.sleep(0.01)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


@pytest.mark.slow
def test_a_stage_started_twice_by_hand_waits_for_itself(tmp_path, empty_store):
    root = drill_workspace(tmp_path / "sluice", empty_store, steps=4)
    first = begin(root, "sluice", "stage", "drill")
    wait_for(root / "at-start")
    second = begin(root, "sluice", "stage", "drill")
    assert "waits: another process is at work on it" in second.stdout.readline()
    time.sleep(0.2)
    assert (root / "trainings").read_text() == "one more\n"
    (root / "go").touch()
    assert [child.wait(60) for child in (first, second)] == [0, 0], first.stdout.read() + second.stdout.read()
    assert (root / "trainings").read_text() == "one more\n" * 2
    assert (root / "artifacts" / "weights").read_text() == "trained"
