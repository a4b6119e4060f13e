"""The warm process takes commands from its own user only, wherever the workspace lies."""

import os
import socket
import stat
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from flows.cli import warm_server
from flows.stages import warm


@pytest.fixture
def listener(tmp_path, monkeypatch):
    """A socket bound as the warm process does it, in a workspace whose path is longer than a socket's address may be."""
    deep = tmp_path.joinpath(*["a folder deep down"] * 12)
    (deep / ".sluice").mkdir(parents=True)
    (deep / ".sluice").chmod(0o777)
    monkeypatch.chdir(deep)
    before = os.umask(0)
    try:
        with socket.socket(socket.AF_UNIX) as found:
            warm_server._bind(found, Path() / ".sluice" / "warm-1.sock")
            assert os.umask(0) == 0  # what is forked later has the caller's
            found.listen(4)
            yield found
    finally:
        os.umask(before)
        warm_server._waiting.clear()


def test_the_socket_is_its_user_s_alone_whatever_the_umask(listener):
    assert stat.S_IMODE(os.stat(".sluice/warm-1.sock").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(".sluice").st_mode) == 0o755
    assert len(os.path.abspath(".sluice/warm-1.sock")) > 107
    assert listener.getsockname().startswith(".sluice")


@pytest.mark.skipif(os.getuid() != 0, reason="becoming somebody else needs root")
def test_another_user_s_request_is_not_heard(monkeypatch):
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:  # pytest's own folders are closed to others
        monkeypatch.chdir(folder)
        listener.bind("warm.sock")
        listener.listen(4)
        for open_to_all in (folder, "warm.sock"):
            os.chmod(open_to_all, 0o777)
        child = os.fork()
        if child == 0:
            os.setuid(12345)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect("warm.sock")
                os._exit(0 if connection.recv(1) == b"" else 1)
        warm_server._take(listener)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert warm_server._waiting == []


@pytest.mark.skipif(os.getuid() != 0, reason="becoming somebody else needs root")
def test_nothing_is_handed_to_a_listener_of_another_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    heard = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("warm.sock")
        listener.listen(1)

        def hear():
            connection, _ = listener.accept()
            heard.append(connection.recv(4))
            connection.close()

        thread = threading.Thread(target=hear)
        thread.start()
        monkeypatch.setattr(os, "getuid", lambda: 12345)  # as if we were another user than the listener
        assert warm.forward("warm.sock", ["repro", "sft"]) is None
        thread.join(5)
    assert heard == [b""]


def test_the_server_is_a_module_that_there_is():
    assert find_spec(warm.SERVER) is not None
