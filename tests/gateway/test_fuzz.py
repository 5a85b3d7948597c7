"""Whatever is sent, the gateway answers something below 500 other than 503, closes the connection, and goes on."""

import json
import random
import socket
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx

from tests.gateway.events import event

REQUESTS = 1500
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, -(2**70), 10**400, 1e308, 0.5, "", "x" * 300, "\0", "é\u2028", [], {}, [[[]]]),
    *({"a": [1]}, {"": None}, ["item-1"] * 3, [None], "<script>", "../..", {"$ref": "#"}, "NaN", "1e999"),
)
TEXTS = (b"NaN", b"1e999", b"-", b'"\\ud800"', b'"\\u0000"', b"1" * 5000, b"[" * 3000, b"{}{}", b"\xef\xbb\xbf{}", b"")
PATHS = ("/v1/recommend", "/v1/events", "/v1/profile/%FF", "/v1/profile/a%2Fb", "/v1/profile/", "/v1/live")
PATHS += ("//", "/%00", "/static/../keys.py", "/static/%2e%2e%2fapp.py", "/docs?x=%ff", "/metrics", "/openapi.json")
NAMES = ("k", "history", "eligible", "context", "events", "key", "é")
METHODS = ("POST", "POST", "POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")


def body(rng: random.Random) -> bytes:
    """A body with up to three things wrong."""
    plain: Any = rng.choice(
        (event(), {"events": [event(1), event(2)]}, {"user_id": "anna", "k": 5, "context": {"hour": 3}}, {"k": 5})
    )
    for _ in range(rng.randrange(4)):
        events = plain.get("events")
        target = rng.choice(events) if isinstance(events, list) and events else plain
        if isinstance(target, dict):
            target[rng.choice([*target, *NAMES])] = rng.choice(VALUES)
    encoded = json.dumps(plain).encode()
    chance = rng.random()
    if chance < 0.1:
        return encoded.replace(rng.choice((b'"anna"', b"5", b"3", b'"click"')), rng.choice(TEXTS), 1)
    if chance < 0.2:
        at = rng.randrange(len(encoded))
        return encoded[:at] + rng.randbytes(rng.randrange(4)) + encoded[at + rng.randrange(3) :]
    return encoded


def test_no_request_of_any_kind_is_an_internal_error(client: httpx.Client) -> None:
    rng, answers = random.Random(0), Counter[int]()
    for number in range(REQUESTS):
        path = rng.choice(PATHS[:2]) if rng.random() < 0.8 else rng.choice(PATHS)
        sent = body(rng)
        status = client.request(rng.choice(METHODS[:3] if number % 5 else METHODS), path, content=sent).status_code
        answers[status] += 1
        assert status < 500 or status == 503, f"{number}: {path} {sent[:200]!r} answered {status}"
    assert answers[200] > 100
    assert answers[400] > 100


def raw(rng: random.Random) -> bytes:
    """Bytes that are nearly HTTP."""
    heads = (b"POST /v1/events HTTP/1.1", b"GET / HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET", b"PRI * HTTP/2.0")
    lines = [b"host: 127.0.0.1", b"content-length: %d" % rng.choice((0, 5, -1, 10**30)), b"\0: x", b"x" * 3000]
    lines += [b"transfer-encoding: chunked", b"upgrade: websocket", b"connection: upgrade", b"expect: 100-continue"]
    lines += [b"content-length: \xb2", b"origin: \xff\xfe", b"sec-websocket-key: x", b"traceparent: \xff"]
    message = b"\r\n".join([rng.choice(heads), *rng.sample(lines, rng.randrange(6))])
    return message + rng.choice((b"\r\n\r\n", b"\r\n\r\n{}", b""))


def test_bytes_that_are_nearly_http_do_no_harm(client: httpx.Client) -> None:
    rng = random.Random(0)
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=60) as connection:
            connection.sendall(raw(rng))
            answer = b""
            with suppress(ConnectionError):  # it may be cut off
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(4096)
            assert b" 500 " not in answer[:20]
    assert client.get("/healthz").status_code == 200
