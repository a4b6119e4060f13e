"""A small authenticating proxy before a real server, or in place of one: what it says can be chosen, its credentials are basic ones."""

import base64
import contextlib
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, str]  # status and body
Behaviour = Callable[[str, str], Answer | None]  # (method, path) -> what is said in place of the server; None asks the server


class Proxy(ThreadingHTTPServer):
    """Listens on a free port of the loopback interface; `upstream` is "host:port", `credentials` "user:password"; "" for none."""

    daemon_threads = True

    def __init__(self, upstream: str = "", credentials: str = "", behave: Behaviour = lambda _method, _path: None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.behave = upstream, behave
        self.expected = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.expected not in (None, self.headers.get("Authorization")):
            self._say(401, b"You are not authenticated.", "text/plain")
        elif (said := self.server.behave(self.command, self.path)) is not None:
            self._say(said[0], said[1].encode(), "text/html" if said[1].startswith("<") else "text/plain")
        else:
            self._forward(body)

    do_POST = do_PATCH = do_DELETE = do_PUT = do_GET  # noqa: N815

    def _forward(self, body: bytes) -> None:
        connection = HTTPConnection(self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "authorization", "accept-encoding")}
        connection.request(self.command, self.path, body, headers | {"Host": self.server.upstream})
        reply = connection.getresponse()
        self._say(reply.status, reply.read(), reply.headers.get("Content-Type", "text/plain"))
        connection.close()

    def _say(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: tests read what Sluice says."""


@contextlib.contextmanager
def proxy(upstream: str = "", credentials: str = "", behave: Behaviour = lambda _method, _path: None) -> Iterator[Proxy]:
    """A proxy that answers for as long as the block lasts."""
    with Proxy(upstream, credentials, behave) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
