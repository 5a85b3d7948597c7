"""Connections that cost a load generator next to nothing: gRPC as raw HTTP/2 frames, and HTTP/1.1.

One request is in flight on each connection. Both only look for the end of an answer and whether it is one; they take
no header apart. That is enough for a benchmark of servers that are known, and for nothing else.
"""

from __future__ import annotations

import socket
import struct

from shortlist.errors import ServerError

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_LARGEST = 2**31 - 1
_HEADER = struct.Struct(">HBBBI")  # length in 16 + 8 bits, type, flags, stream


class GrpcConnection:
    """One HTTP/2 connection to one gRPC method (RFC 9113). Requests reuse the header table as gRPC's own clients do."""

    def __init__(self, host: str, port: int, method: str = "/inference.GRPCInferenceService/ModelInfer") -> None:
        self.socket = _connect(host, port)
        self._buffer = b""
        self._stream = -1
        self._body: list[bytes] = []
        self._received = 0
        authority = f"{host}:{port}".encode()
        self._first = b"\x83\x86" + b"".join(
            [
                b"\x44" + _string(method.encode()),  # :path
                b"\x41" + _string(authority),
                b"\x5f" + _string(b"application/grpc"),  # content-type
                b"\x40" + _string(b"te") + _string(b"trailers"),
            ]
        )
        self._later = b"\x83\x86\xc1\xc0\xbf\xbe"  # the same, by their places in the table
        settings = struct.pack(">HIHI", 2, 0, 4, _LARGEST)  # no push, a wide window for each answer
        self.socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW, 0, 0, struct.pack(">I", _LARGEST - 65535))
        )

    def send(self, message: bytes) -> None:
        """Send one request."""
        self._stream += 2
        headers = self._first if self._stream == 1 else self._later
        size = len(message) + 5
        self.socket.sendall(
            b"".join(
                (
                    _HEADER.pack(0, len(headers), _HEADERS, _END_HEADERS, self._stream),
                    headers,
                    _HEADER.pack(size >> 8, size & 255, _DATA, _END_STREAM, self._stream),
                    b"\0",
                    len(message).to_bytes(4, "big"),
                    message,
                )
            )
        )

    def receive(self) -> bytes | None:
        """Read what there is: the message when the answer is whole (empty when it is an error), else None."""
        buffer = self._buffer + self._read()
        start, answer = 0, None
        while len(buffer) - start >= 9:
            high, low, kind, flags, _ = _HEADER.unpack_from(buffer, start)
            stop = start + 9 + (high << 8 | low)
            if len(buffer) < stop:
                break
            if kind == _DATA:
                self._body.append(buffer[start + 9 : stop])
                self._take(stop - start - 9)
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                self.socket.sendall(_frame(kind, _ACK, 0, buffer[start + 9 : stop] if kind == _PING else b""))
            elif kind == _GOAWAY:
                raise ServerError(f"the server closed the connection: {buffer[start + 17 : stop]!r}")
            if kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                answer, self._body = b"".join(self._body)[5:], []
            start = stop
        self._buffer = buffer[start:]
        return answer

    def _read(self) -> bytes:
        return _read(self.socket)

    def _take(self, size: int) -> None:
        """Give the server its window back, long before it is spent."""
        self._received += size
        if self._received > 2**29:
            self.socket.sendall(_frame(_WINDOW, 0, 0, struct.pack(">I", self._received)))
            self._received = 0


class HttpConnection:
    """One kept-alive HTTP/1.1 connection to one path; bodies are binary, answers say their length."""

    def __init__(self, host: str, port: int, path: str = "/recommend") -> None:
        self.socket = _connect(host, port)
        self._buffer = b""
        self._head = (
            f"POST {path} HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/octet-stream\r\ncontent-length: "
        ).encode()

    def send(self, message: bytes) -> None:
        """Send one request."""
        self.socket.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(message), message))

    def receive(self) -> bytes | None:
        """Read what there is: the body when the answer is whole (empty when it is an error), else None."""
        self._buffer += _read(self.socket)
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._buffer[:end].lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at : head.find(b"\r\n", at) if head.find(b"\r\n", at) > 0 else end])
        if len(self._buffer) < end + 4 + length:
            return None
        body, self._buffer = self._buffer[end + 4 :], b""
        return body if head[9:12] == b"200" else b""


Connection = GrpcConnection | HttpConnection


def _connect(host: str, port: int) -> socket.socket:
    connected = socket.create_connection((host, port), timeout=10)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def _read(connected: socket.socket) -> bytes:
    received = connected.recv(65536)
    if not received:
        raise ServerError("the server closed the connection")
    return received


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def _string(value: bytes) -> bytes:
    """HPACK's string of fewer than 127 bytes, not Huffman-coded."""
    return bytes([len(value)]) + value
