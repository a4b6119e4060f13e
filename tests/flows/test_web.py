"""What a server answers is told in one line of its own: who it is, what it said, to whom, who helps. Addresses are checked first."""

import os
import socket
import ssl
import subprocess
import time

import pytest

from flows.host import web
from flows.host.services import require_prefect
from flows.host.tracking import Tracker, require_store
from flows.host.workspace import Workspace, prepare_environment
from models.core.errors import SluiceError, Unavailable, UserError
from tests.proxies import proxy

VARIABLES = [name for server in (web.MLFLOW, web.PREFECT) for name in (server.variable, server.user, server.password, server.token) if name]
ANSWERS = [
    (401, "You are not authenticated.", "does not let user ada in (401"),
    (403, "Permission denied", "forbids this to user ada (403"),
    (404, "Not Found", "has nothing of {name}'s there (404"),
    (407, "", "the proxy on the way asks for credentials"),
    (500, "boom", "fails itself (500"),
    (503, "<html>busy</html>", "fails itself (503"),
    (418, "teapot", "refuses (418"),
    (200, "<html>A wiki</html>", "another page answers there than {name}'s"),
    (200, "", "another page answers there than {name}'s"),
]


@pytest.fixture(autouse=True)
def nothing_set():
    before = dict(os.environ)
    for name in [name for name in os.environ if name in VARIABLES or name.lower().endswith("_proxy")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(("server", "require"), [(web.MLFLOW, require_store), (web.PREFECT, require_prefect)], ids=("mlflow", "prefect"))
@pytest.mark.parametrize(("status", "body", "said"), ANSWERS)
def test_each_answer_has_a_line_of_its_own(server, require, status, body, said):
    with proxy(behave=lambda _method, _path: (status, body)) as there, pytest.raises(Unavailable) as failure:
        require(f"http://ada:hunter22@{there.address}/api")
    assert said.format(name=server.name) in str(failure.value)
    assert_one_line(failure.value, there.address)


def assert_one_line(error, *parts):
    for part in parts:
        assert part in str(error)
    assert "\n" not in str(error)
    assert "hunter22" not in str(error)
    assert "sluice up" not in str(error) or "does not answer" in str(error)


def test_a_refusal_names_the_user_and_who_grants(monkeypatch):
    with proxy(behave=lambda _method, _path: (403, "Permission denied")) as there:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ada:hunter22@{there.address}")
        web.MLFLOW.apart(os.environ)
        with pytest.raises(Unavailable) as failure:
            require_store(os.environ["MLFLOW_TRACKING_URI"])
    assert_one_line(failure.value, "user ada", "Permission denied", "EDIT on the experiments", f"http://{there.address}")


def test_mlflow_s_own_client_s_refusals_are_named_alike(monkeypatch, tmp_path):
    from flows.host.tracking import Tracker

    with proxy(credentials="ada:hunter22") as there:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://eve:hunter22@{there.address}")
        prepare_environment(Workspace(tmp_path))
        with pytest.raises(Unavailable) as failure:
            Tracker(Workspace(tmp_path), "assistant").client  # noqa: B018
    assert_one_line(failure.value, "does not let user eve in (401", there.address)


def test_passwords_leave_addresses_for_variables_of_their_own():
    given = {"MLFLOW_TRACKING_URI": "http://ada:p%40ss@host:5000", "PREFECT_API_URL": "https://admin:s%2Fc@host/api"}
    web.MLFLOW.apart(given)
    web.PREFECT.apart(given)
    assert given == {
        "MLFLOW_TRACKING_URI": "http://host:5000",
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": "p@ss",
        "PREFECT_API_URL": "https://host/api",
        "PREFECT_API_AUTH_STRING": "admin:s/c",
    }
    same = {"MLFLOW_TRACKING_URI": "sqlite:////tmp/a@b.db", "PREFECT_API_URL": "   "}
    web.MLFLOW.apart(same)
    web.PREFECT.apart(same)
    assert same == {"MLFLOW_TRACKING_URI": "sqlite:////tmp/a@b.db"}


@pytest.mark.parametrize(
    "address",
    [
        "localhost:5000",
        "http://h:99999",
        "http://h:abc",
        "foo://x",
        "http://[::1",
        "http://",
        "/tmp",
        "sqlite:///",
        "file:///x",
        "http://a b/",
        "x",
    ],
)
def test_what_is_no_address_is_a_user_s_mistake_said_at_once(monkeypatch, tmp_path, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI is '.*must be"):
        Workspace(tmp_path).tracking_uri  # noqa: B018
    if not address.startswith("sqlite"):
        with pytest.raises(UserError, match=r"PREFECT_API_URL is '.*must be"):
            require_prefect(address)


@pytest.mark.parametrize(
    "address", ["http://[::1]:5000", "https://host", "sqlite:////tmp/a%zb.db", "postgresql://h/d", "mysql+pymysql://h/d"]
)
def test_what_may_be_an_address_is_taken(address):
    web.check_store(address)


def test_nobody_there_a_name_of_nobody_and_a_plain_server_asked_for_tls_are_told_apart():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with proxy() as there:
        said = {address: failure_of(address) for address in (closed, "http://nobody.invalid", f"https://{there.address}")}
    assert "does not answer" in said[closed]
    assert "Connection refused" in said[closed]
    assert "no host has that name" in said["http://nobody.invalid"]
    assert "it speaks plain HTTP, not TLS" in said[f"https://{there.address}"]


def failure_of(address):
    with pytest.raises(SluiceError) as failure:
        require_store(address)
    assert_one_line(failure.value)
    return str(failure.value)


def test_a_certificate_that_nobody_vouches_for_is_named_and_can_be_trusted(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext"]
    made += ["subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    if subprocess.run(["sh", "-c", "command -v openssl"], capture_output=True).returncode:
        pytest.skip("no openssl here")
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with proxy(behave=lambda _method, _path: (200, "{}")) as there:
        there.socket = context.wrap_socket(there.socket, server_side=True)
        address = f"https://localhost:{there.server_port}"
        assert "its certificate is not trusted" in failure_of(address)
        monkeypatch.setenv(web.MLFLOW.authority, str(certificate))
        require_store(address)
        assert "another host's" in failure_of(f"https://127.0.0.1:{there.server_port}")


def test_a_proxy_is_not_asked_for_this_machine_and_what_the_user_set_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "intranet.example.org")
    prepare_environment(Workspace(tmp_path))
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intranet.example.org,127.0.0.1,localhost,::1"
    with proxy(behave=lambda _method, _path: (200, "{}")) as there:
        require_store(f"http://{there.address}")
    monkeypatch.setenv("no_proxy", "*")
    prepare_environment(Workspace(tmp_path))
    assert os.environ["no_proxy"] == "*"


def test_a_socks_proxy_that_nobody_can_speak_to_ends_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "socksio" else name)
    monkeypatch.setenv("ALL_PROXY", "socks5h://ada:hunter22@127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    prepare_environment(Workspace(tmp_path))
    assert "ALL_PROXY" not in os.environ
    assert os.environ["https_proxy"] == "http://127.0.0.1:9"
    assert capsys.readouterr().err.startswith("sluice: ALL_PROXY is left out")


def test_a_server_that_takes_what_it_is_asked_and_says_nothing_is_told_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(web.Server.get, "__defaults__", (0.5,))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        prepare_environment(Workspace(tmp_path))
        started = time.monotonic()
        with pytest.raises(Unavailable, match="does not answer"):
            Tracker(Workspace(tmp_path), "assistant").client  # noqa: B018
        assert time.monotonic() - started < 10
