"""One command of the profile store, read with as little code as can be: MGET, on a connection that valkey-py opens.

In the request path Python's own work on an answer counts more than the way to the store: a general client takes about
20 µs more for it. Whoever has time uses `store`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from shortlist.profiles.store import PROFILE, StoreError, connection_to

OPEN = 1.0  # seconds for each step of opening a connection, which TLS has several of
_CHUNK = 1 << 16  # bytes that are received at once


class Wire:
    """A connection to the store for one thread. After an error it is of no use: close it."""

    def __init__(self, url: str, patience: float) -> None:
        """An answer may take `patience` seconds, opening the connection longer. Raises ConfigError for a bad `url`."""
        self._patience = patience
        self._connection = connection_to(url, OPEN)

    def connect(self) -> None:
        """Open the connection and read something. Raises StoreError when that fails or takes too long."""
        from valkey.exceptions import ValkeyError

        try:
            self._connection.connect()
        except (ValkeyError, OSError) as error:
            raise StoreError(f"the profile store cannot be reached ({error})") from error
        self.read([b""])

    def read(self, user_ids: Sequence[bytes], prefixes: Sequence[bytes] = (PROFILE,)) -> list[bytes | None]:
        """Blobs of `user_ids` in order, None where there is none; one round trip. Raises StoreError, by the time that
        patience ends.

        With several `prefixes` of keys, those of all users under the first of them come first.
        """
        keys = [b"$%d\r\n%b%b\r\n" % (len(p) + len(user_id), p, user_id) for p in prefixes for user_id in user_ids]
        socket, until = self._connection._sock, time.monotonic() + self._patience
        try:
            socket.settimeout(self._patience)
            socket.sendall(b"*%d\r\n$4\r\nMGET\r\n%b" % (1 + len(keys), b"".join(keys)))
            answer = _received(socket, until)
            while (blobs := _blobs(answer, len(keys))) is None:
                answer += _received(socket, until)
        except OSError as error:
            raise StoreError(f"the profile store does not answer in time ({error})") from error
        except ValueError as error:
            raise StoreError(f"the profile store answers what is no list of blobs ({error})") from error
        return blobs

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()


def _received(socket: Any, until: float) -> bytes:
    """The next bytes of an answer, if they come by `until`."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("it answers too slowly")
    socket.settimeout(left)
    received: bytes = socket.recv(_CHUNK)
    if not received:
        raise ConnectionResetError("it has closed the connection")
    return received


def _blobs(answer: bytes, count: int) -> list[bytes | None] | None:
    """What `answer` says, as far as it has come: None where it is not whole. Raises StoreError for a refusal,
    ValueError for what is no answer to MGET.
    """
    at = answer.find(b"\r\n") + 2
    if at < 2:
        return None
    if answer[:at] != b"*%d\r\n" % count:
        raise StoreError(f"the profile store refuses to read: {answer[: at - 2][:200].decode(errors='replace')}")
    blobs: list[bytes | None] = []
    for _ in range(count):
        end = answer.find(b"\r\n", at)
        if end < 0:
            return None
        if answer[at : at + 1] != b"$":
            raise ValueError(answer[at:end][:80])
        size, at = int(answer[at + 1 : end]), end + 2
        if size < 0:
            blobs.append(None)
        else:
            blobs.append(answer[at : at + size])
            at += size + 2
    if at < len(answer):  # the rest would be taken for the answer to the next question
        raise ValueError(f"{len(answer) - at} bytes too many")
    return blobs if at == len(answer) else None
