"""The two servers that the environment may name: their addresses checked, their credentials kept apart, their failures told in one line."""

import base64
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from flows.host.masking import masked
from models.core.errors import SluiceError, Unavailable, UserError

WEB = ("http", "https")
STATUS = re.compile(r"(?:error code |status code:? |HTTP Error |error ')(\d{3})\b")
NO_ANSWER = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")  # MLflow's codes where nobody answered
STORE = re.compile(r"(sqlite|postgres|postgresql|mysql|mssql)(\+\w+)?://.")
CAUSES = (  # (what an error's text says, what is, what to do): the first that fits
    (r"WRONG_VERSION_NUMBER|record layer failure", "it speaks plain HTTP, not TLS", "write http:// in {variable}"),
    (r"Hostname mismatch|doesn't match|not valid for", "its certificate is another host's", "name the host as its certificate does"),
    (r"certificate|CERTIFICATE", "its certificate is not trusted", "name the authority's file in {authority}"),
    (r"SSL|TLS", "the TLS connection fails", "ask who administers it which versions it speaks"),
    (
        r"BadStatusLine|RemoteProtocolError|IncompleteRead",
        "it speaks no HTTP, or something else than {name} listens there",
        "correct {variable}",
    ),
    (r"[Nn]ame or service not known|name resolution|getaddrinfo|No address associated", "no host has that name", "correct {variable}"),
    (r"valid JSON|JSONDecodeError|<!doctype|<html|Expecting value", "another page answers there than {name}'s", "correct {variable}"),
    (
        r"password authentication failed|no password supplied|Access denied",
        "it does not accept user and password",
        "correct them in {variable}",
    ),
    (r"permission denied|insufficient privilege", "that user may not do this there", "ask who administers the database to grant it"),
    (r"readonly database|read-only", "the database may only be read", "make its file and folder writable for this user"),
    (r"unable to open database file", "the database cannot be opened", "make its folder, writable for this user, or correct {variable}"),
    (r"database is locked", "another process holds the database", "wait for it to end, then run again"),
    (r"disk is full|No space left", "the disk is full", "free some space, then run again"),
    (r"not a database|malformed", "its file is no database", "move it away, or correct {variable}"),
)


@dataclass(frozen=True)
class Server:
    """A server that the environment may name, and the variables that say where it is and who asks."""

    name: str
    variable: str
    user: str
    password: str
    token: str
    authority: str
    insecure: str
    grants: str

    def apart(self, environ: MutableMapping[str, str]) -> None:
        """Leave the address without user and password, which go into variables of their own: links and logs repeat addresses."""
        address = environ.get(self.variable, "").strip()
        if not address:
            environ.pop(self.variable, None)  # a blank one says nothing
            return
        bare, credentials = _split(address)
        environ[self.variable] = bare
        if credentials and ":" in credentials and self.user:
            user, _, word = credentials.partition(":")
            environ[self.user], environ[self.password] = unquote(user), unquote(word)
        elif credentials and not self.user:
            user, _, word = credentials.partition(":")
            environ[self.password] = f"{unquote(user)}:{unquote(word)}"

    def check(self, address: str) -> None:
        """Raise UserError where that cannot be the address of a web server."""
        must = f"must be http://HOST:PORT or https://HOST{' with /api after it' * (self.name == 'Prefect')}"
        try:
            parts = urlsplit(address)
            (parts.hostname or "").encode("idna")  # as those will who connect
            whole = parts.scheme in WEB and parts.hostname and parts.port != 0 and not re.search(r"[\s\ud800-\udfff]", address)
            why = "" if whole else must
        except ValueError as error:
            why = f"{masked(str(error))}; {must}"
        if why:
            raise UserError(f"{self.variable} is {masked(address)!r}: {why}; correct it, or unset it to use the workspace's own")

    def credentials(self) -> str:
        """ "user:password" as the variables say; "" for none."""
        if not self.user:
            return os.environ.get(self.password, "")
        user = os.environ.get(self.user, "")
        return f"{user}:{os.environ.get(self.password, '')}" if user else ""

    def who(self, address: str) -> str:
        """Whom the server sees, for messages."""
        if credentials := unquote(_split(address)[1]) or self.credentials():
            return f"user {masked(credentials.partition(':')[0])}"
        return f"the holder of {self.token}" if os.environ.get(self.token) else "anybody without credentials (none are set)"

    def authorization(self, address: str) -> str:
        """The header that says who asks: by the address, else by the variables; "" for nobody."""
        if credentials := unquote(_split(address)[1]) or self.credentials():
            return f"Basic {base64.b64encode(credentials.encode('utf-8', 'surrogateescape')).decode()}"
        return f"Bearer {os.environ[self.token]}" if os.environ.get(self.token) else ""

    def get(self, address: str, timeout_s: float = 10) -> bytes:
        """What a GET of `address` brings. Raises OSError, urllib's HTTPError and URLError among them, or UserError."""
        self.check(address)
        request = urllib.request.Request(_split(address)[0])
        if said := self.authorization(address):
            request.add_unredirected_header("Authorization", said)  # another host is not told
        context = None
        if address.startswith("https"):
            context = ssl.create_default_context(cafile=os.environ.get(self.authority) or None)
            if os.environ.get(self.insecure, "").lower() in ("true", "1"):
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(request, timeout=timeout_s, context=context) as reply:
            return bytes(reply.read())

    def failure(self, address: str, error: BaseException) -> SluiceError:
        """The one line for what went wrong there: what is, where, whom it concerns, what to do."""
        where = f"{self.name} at {shown(address)}" if address else self.name
        text = " | ".join(f"{type(one).__name__}: {one}" for one in _chain(error))
        status = next((code for one in _chain(error) if (code := _status(one))), 0)
        if status:
            return Unavailable(self._refusal(where, status, _reply(error), self.who(address)))
        for pattern, what, do in CAUSES:
            if re.search(pattern, text):
                said = {"name": self.name, "variable": self.variable, "authority": self.authority}
                return Unavailable(f"{where}: {what.format(**said)} ({_cause(error)}); {do.format(**said)}")
        if getattr(error, "error_code", "INTERNAL_ERROR") not in NO_ANSWER:
            return Unavailable(f"{where} refuses ({_cause(error)}): mend that, then run again")
        start = f"start it ('sluice up' starts a local one), or correct or unset {self.variable}"
        return Unavailable(f"{where} does not answer ({_cause(error)}); {start}")

    def _refusal(self, where: str, status: int, said: str, who: str) -> str:
        set_them = f"{self.user} and {self.password}" if self.user else self.password
        if status == 401:
            return f"{where} does not let {who} in (401{said}): set {set_them}, or {self.token}, or correct them"
        if status == 403:
            return f"{where} forbids this to {who} (403{said}): {self.grants}, or use another user's credentials"
        if status == 404:
            return f"{where} has nothing of {self.name}'s there (404{said}): correct the path in {self.variable}"
        if status == 407:
            return f"{where}: the proxy on the way asks for credentials (407): put them into http_proxy, or the host into no_proxy"
        if status >= 500:
            return f"{where} fails itself ({status}{said}): look into its log, or ask who administers it, then run again"
        return f"{where} refuses ({status}{said}): correct {self.variable}, or ask who administers it"


def _split(address: str) -> tuple[str, str]:
    """(the address without user and password, "user:password" as it stands there); both as given where it is no web address."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address, ""
    credentials, at, host = parts.netloc.rpartition("@")
    return (urlunsplit(parts._replace(netloc=host)), credentials) if at and parts.scheme in WEB else (address, "")


def shown(address: str) -> str:
    """The address as it may stand in a link: nobody's user, password or token in it."""
    return masked(_split(address)[0])


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that is behind it."""
    for _ in range(8):
        if error is None:
            return
        yield error
        reason, below = getattr(error, "reason", None), getattr(error, "orig", None)
        error = next((one for one in (reason, below, error.__cause__, error.__context__) if isinstance(one, BaseException)), None)


def _status(error: BaseException) -> int:
    """The HTTP status that an error tells of; 0 for none."""
    if isinstance(error, urllib.error.HTTPError):
        return int(error.code)
    reply = getattr(error, "response", None)
    if isinstance(status := getattr(reply, "status_code", None), int):
        return status
    found = (
        STATUS.search(str(error)) if type(error).__module__.startswith(("mlflow", "requests", "urllib3", "websockets", "httpx")) else None
    )
    return int(found[1]) if found else {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}.get(getattr(error, "error_code", ""), 0)


def _reply(error: BaseException) -> str:
    """What the server said with its refusal, where it is a sentence and no page."""
    text = f"Response body: {error.read(400).decode(errors='replace')}" if isinstance(error, urllib.error.HTTPError) else str(error)
    found = re.search(r"Response body: '?([^<{\n]{1,120})", text)
    said = found[1].strip(" '\"") if found else str(getattr(error, "reason", "") or "")
    return f", {masked(said)}" if said else ""


def _cause(error: BaseException) -> str:
    """The innermost reason, short."""
    text = " ".join(str(error).split())
    inner = re.search(r"Caused by (\w+\(.*\))\)", text)
    return masked(inner[1] if inner else text.removeprefix("<urlopen error ").removesuffix(">") or type(error).__name__)[:200]


def check_store(address: str) -> None:
    """Raise UserError where MLflow can keep nothing at that address."""
    said = f"{MLFLOW.variable} is {masked(address)!r}"
    forms = "must be http://HOST:PORT, https://HOST, sqlite:////PATH/mlflow.db or postgresql://HOST/DATABASE"
    if is_web(address):
        MLFLOW.check(address)
    elif address.startswith(("/", ".", "file:")):
        raise UserError(f"{said}: MLflow keeps no runs in plain folders any more; {forms}")
    elif address in ("sqlite:", "sqlite://", "sqlite:///") or ":memory:" in address:
        raise UserError(f"{said}: a database in memory keeps nothing; {forms}")
    elif not STORE.match(address):
        raise UserError(f"{said}: {forms}; correct it, or unset it to use the workspace's own")


def is_web(address: str) -> bool:
    """Whether an address is a web server's."""
    return address.lower().startswith(tuple(f"{scheme}:" for scheme in WEB))


MLFLOW = Server(
    name="MLflow",
    variable="MLFLOW_TRACKING_URI",
    user="MLFLOW_TRACKING_USERNAME",
    password="MLFLOW_TRACKING_PASSWORD",
    token="MLFLOW_TRACKING_TOKEN",
    authority="MLFLOW_TRACKING_SERVER_CERT_PATH",
    insecure="MLFLOW_TRACKING_INSECURE_TLS",
    grants="an admin of it grants EDIT on the experiments and MANAGE on the registered model",
)
PREFECT = Server(
    name="Prefect",
    variable="PREFECT_API_URL",
    user="",
    password="PREFECT_API_AUTH_STRING",
    token="PREFECT_API_KEY",
    authority="PREFECT_API_SSL_CERT_FILE",
    insecure="PREFECT_API_TLS_INSECURE_SKIP_VERIFY",
    grants="an admin of its workspace grants a role that may create flow runs, artifacts and concurrency limits",
)
