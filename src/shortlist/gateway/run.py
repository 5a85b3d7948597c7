"""Running the application with uvicorn, in this thread or in another.

Here is what the application cannot bound itself: how long a client may take over a request's head and how large that
may be, how many connections there are, and how long one may refuse to take its answer.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from shortlist.errors import ConfigError, MissingExtraError, ServerError
from shortlist.gateway.app import create_app
from shortlist.gateway.settings import HEAD_SECONDS, MAX_CONNECTIONS, MAX_HEAD, STALLED_SECONDS, Settings

try:
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
except ImportError as error:
    raise MissingExtraError("uvicorn", "gateway") from error

_START_WITHIN = 20.0  # seconds
_BACKLOG = 512


class BoundedHead(HttpToolsProtocol):
    """HTTP/1.1 whose request heads are of bounded size and come in bounded time, and what is not asked for likewise.

    That is what follows an answer: empty lines, or the rest of a body that was refused. What stands behind a body in
    chunks (trailers) is passed over; by itself it would gather in memory.
    """

    _received = 0  # bytes since there was a whole head or a piece of a body
    _useful = False  # the bytes that are being read hold one of these
    _timer: Any = None

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._useful = False
        super().data_received(data)
        if self.transport.get_protocol() is not self:  # it is a WebSocket now
            return
        self._received = 0 if self._useful else self._received + len(data)
        if self._received > MAX_HEAD:
            self._cut()
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._begin()

    def on_message_begin(self) -> None:
        """The first byte of a request came."""
        super().on_message_begin()
        if self._timer is None:
            self._begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head, or of what follows a body in chunks."""
        if self._timer is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._useful = True
        self._end()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body came."""
        self._useful = True
        super().on_body(body)

    def _begin(self) -> None:
        self._received = 0
        self._timer = self.loop.call_later(HEAD_SECONDS, self._cut)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        self._end()
        self.transport.abort()


class BoundedSocket(WebSocketsSansIOProtocol):
    """A WebSocket that is not left open where its greeting is none, and is not read while it takes nothing."""

    def data_received(self, data: bytes) -> None:
        """See asyncio. A greeting comes whole, from the request's head."""
        try:
            super().data_received(data)
        finally:
            if not self.handshake_initiated:
                self.transport.set_protocol(self)  # which takes the connection off the list
                self.transport.abort()

    def pause_writing(self) -> None:
        """See asyncio. Pings are answered as they are read: their answers would gather in memory."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()


def serve(settings: Settings, on_url: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGINT or SIGTERM; `on_url` is told where.

    Raises what `create_app` raises, and ServerError when the port is taken.
    """
    server, listening = _server(settings), _listen(settings)
    with listening:
        on_url(_url(settings, listening))
        server.run(sockets=[listening])


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[str]:
    """Serve in a thread of this process; gives the URL. Raises what `serve` raises.

    It shares the interpreter with whatever else this process does; `shortlist gateway` is a process of its own.
    """
    server, listening = _server(settings), _listen(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="gateway", daemon=True)
    with listening:
        thread.start()
        try:
            _await(lambda: server.started, thread.is_alive)
            yield _url(settings, listening)
        finally:
            server.should_exit = True
            thread.join()


def _server(settings: Settings) -> uvicorn.Server:
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    _check_certificate(settings)
    config = uvicorn.Config(
        create_app(settings),
        loop="asyncio",  # uvloop saves a tenth, and hangs as it closes once gRPC has used it
        http=BoundedHead,
        ws=BoundedSocket,
        ws_max_size=1024,  # clients have nothing to say
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=list(settings.proxies),
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=3,
        ssl_certfile=settings.cert,
        ssl_keyfile=settings.key,
    )
    return uvicorn.Server(config)


def _check_certificate(settings: Settings) -> None:
    """Raise ConfigError where HTTPS cannot be spoken with the files given."""
    if settings.cert is None or settings.key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.cert, settings.key, password="")
    except OSError as error:
        raise ConfigError(
            f"--tls-cert = {settings.cert}, --tls-key = {settings.key}: cannot be used ({error.strerror or error}); a "
            "certificate and its key without a password, as PEM, are allowed"
        ) from error


def _listen(settings: Settings) -> socket.socket:
    """The listening socket; connections inherit how long they may stand still."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off where the protocol is named; with it an answer takes 40 ms
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1e3 * STALLED_SECONDS))
        listening.bind((settings.host, settings.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise ServerError(
            f"--port = {settings.port}: cannot listen on {settings.host}:{settings.port} "
            f"({error.strerror or error}); choose another"
        ) from error
    return listening


def _url(settings: Settings, listening: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http{'s' if settings.cert else ''}://{host}:{listening.getsockname()[1]}"


def _await(started: Callable[[], bool], alive: Callable[[], bool]) -> None:
    until = time.monotonic() + _START_WITHIN
    while not started():
        if not alive() or time.monotonic() > until:
            raise ServerError("the gateway did not start; its log says why")
        time.sleep(0.01)
