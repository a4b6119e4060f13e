"""No planted secret is shown, in whatever form a library repeats it; what is no secret stays."""

import base64
import html
import json
import logging
import os
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.cli.common import say
from flows.host import failures
from flows.host.masking import NO_SECRETS, mask_logs, masked, masked_values
from flows.screen.tables import print_rows
from models.core.errors import SluiceError

LETTERS = st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"))
PASSWORDS = st.text(LETTERS, min_size=4).filter(lambda text: text.lower() not in NO_SECRETS and set(text) != {"*"})
FORMS = {
    "plain": str,
    "quoted": lambda text: quote(text, safe=""),
    "plus": quote_plus,
    "json": lambda text: json.dumps(text)[1:-1],
    "repr": lambda text: repr(text)[1:-1],
    "html": html.escape,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
}
ADDRESSES = (
    "MLFLOW_TRACKING_URI=http://ada:{}@host:5000",
    "MLFLOW_TRACKING_URI=https://ada:{}@host",
    "MLFLOW_TRACKING_URI=postgresql://ada:{}@host/db?sslmode=require",
    "PREFECT_API_URL=http://{}@host:4200/api",
    "PREFECT_API_URL=https://host/api?token={}",
    "MLFLOW_S3_ENDPOINT_URL=https://host/?X-Amz-Signature={}&x=1",
    "http_proxy=http://ada:{}@proxy:3128",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://ada:{}@host/prefect",
)
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
)
VARIABLES += ("PGPASSWORD", "AWS_ACCESS_KEY_ID", "WANDB_API_KEY", "GITHUB_TOKEN", "AZURE_CLIENT_SECRET", "DATABASE_PASSWD")


@pytest.fixture
def planted(monkeypatch):
    def plant(name, value):
        monkeypatch.setenv(name, value)

    return plant


def survives(secret, text):
    """Whether the secret stands there as a word of its own; a short one may be part of another word."""
    around = pairwise(text.split(secret))
    return any(len(secret) >= 8 or not (before[-1:].isalnum() or after[:1].isalnum()) for before, after in around)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=PASSWORDS, address=st.sampled_from(ADDRESSES), before=st.sampled_from(("", "(", 'said: "', "url=")))
def test_a_password_of_an_address_survives_in_no_form(planted, form, password, address, before):
    name, _, template = address.partition("=")
    planted(name, template.format(quote(password, safe="")))
    written = FORMS[form](password)
    for text in (f"no {before}{written} there", template.format(quote(password, safe="")), f"x {template.format(password)} y"):
        shown = masked(text)
        assert not survives(written, shown), shown
        assert masked(shown) == shown
    planted(name, "")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=PASSWORDS, name=st.sampled_from(VARIABLES), form=st.sampled_from(sorted(FORMS)))
def test_a_secret_variable_s_value_survives_nowhere(planted, secret, name, form):
    planted(name, secret)
    assert not survives(FORMS[form](secret), masked(f"it said '{FORMS[form](secret)}' there"))
    planted(name, "")


@settings(max_examples=100, deadline=None)
@given(password=PASSWORDS.filter(lambda text: "@" not in text[-1:]))
def test_an_address_that_nobody_planted_loses_its_password_too(password):
    assert masked(f"at http://ada:{password}@host:5000/path") == "at http://ada:***@host:5000/path"
    shown = masked(f"sqlalchemy: postgresql://ada:{password}@host/db failed")
    assert shown == "sqlalchemy: postgresql://ada:***@host/db failed"


def test_headers_keys_and_pairs_are_known_by_their_place(monkeypatch):
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:tops3cret")
    monkeypatch.setenv("PREFECT_CLIENT_CUSTOM_HEADERS", '{"X-Access": "header-secret-1"}')
    for text in (
        "Authorization: Basic YWRtaW46cGFzc3dvcmQ=",
        "Bearer eyJhbGciOiJIUzI1NiJ9.e30.abc",
        "key AKIAIOSFODNN7EXAMPLE",
        "host=db password=hunter22 user=ada",
        "tops3cret",
        base64.b64encode(b"admin:tops3cret").decode(),
        "header-secret-1",
    ):
        shown = masked(text)
        assert "***" in shown, text
        assert all(secret not in shown for secret in ("hunter22", "tops3cret", "header-secret-1", "AKIA", "eyJ", "YWRt"))


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/#/experiments/1/runs/2",
        "git+https://github.com/x/y@v1.0",
        "stage benchmark@rlhf-mmlu-mini, http://host:4200/runs/flow-run/1 by ada@example.org",
        "base.max_tokens=512 (params.yaml)",
        "sft  step 3/4  loss 1.2  left 3 s",
        "https://host/?page=2&sort=key",
    ],
)
def test_what_is_no_secret_stays(text):
    assert masked(text) == text


def test_where_one_works_is_no_secret():
    assert masked(os.getcwd()) == os.getcwd()


def test_what_is_printed_as_json_as_a_table_or_as_an_error_is_masked(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:hunter2%22x@host")
    say({"a": ["http://ada:hunter2%22x@host"], "b": {"c": 'hunter2"x'}})
    assert json.loads(capsys.readouterr().out) == {"a": ["http://ada:***@host"], "b": {"c": "***"}}
    print_rows("Rows", [{"one": "long " * 30 + 'hunter2"x', "two": "x" * 100}])
    assert "hunter2" not in capsys.readouterr().out
    assert str(failures.named(SluiceError('no hunter2"x'))) == "no ***"
    assert masked_values(("hunter2%22x", 1)) == ["***", 1]


def test_log_records_and_their_tracebacks_are_masked_when_they_are_made(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    before, seen = logging.getLogRecordFactory(), []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(logging.Formatter().format(record))
    logger = logging.getLogger("test-masking")
    logger.addHandler(handler)
    try:
        mask_logs()
        try:
            raise ValueError("with planted-token")
        except ValueError:
            logger.exception("could not: %s", "planted-token")
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    assert "could not: ***" in seen[0]
    assert "ValueError: with ***" in seen[0]
    assert "planted" not in seen[0].replace('raise ValueError("with ***")', "")
