"""TLS and mutual TLS of the inference port: the files, Triton's options, and how a client and the supervisor connect.

Certificates are made and renewed elsewhere. Triton reads them when it starts, so a renewed one wants a restart of
`shortlist serve`. The metrics port and Triton's HTTP have no TLS.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortlist.errors import ConfigError

File = Path | str
ChannelArguments = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Tls:
    """How a client meets a server that speaks TLS. All files are PEM.

    `ca` signs the server's certificate (None: whoever the system trusts); `cert` and `key` are the client's own, for a
    server that asks for them (mutual TLS); `name` stands in the server's certificate, where it is reached by another.
    """

    ca: File | None = None
    cert: File | None = None
    key: File | None = None
    name: str | None = None

    def check(self) -> None:
        """Raise ConfigError for a file that cannot be read, or a certificate without its key."""
        if (self.cert is None) != (self.key is None):
            given, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise ConfigError(f"tls.{given} without tls.{missing}: a client's certificate and its key go together")
        for field, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key)):
            if path is not None:
                _check_readable(f"tls.{field}", Path(path))


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What the server shows, whom it lets in, and as whom the supervisor connects. All files are PEM.

    With `client_ca` only clients come in whose certificate it signed (mutual TLS), the supervisor among them: with
    `supervisor_cert` and `supervisor_key`, or, where these are left out, with the server's own certificate.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None
    supervisor_cert: Path | None = None
    supervisor_key: Path | None = None

    def arguments(self) -> list[str]:
        """Options of tritonserver."""
        options = ["--grpc-use-ssl=true", f"--grpc-server-cert={self.cert}", f"--grpc-server-key={self.key}"]
        if self.client_ca:
            options += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={self.client_ca}"]
        return options

    def supervisor(self) -> Tls:
        """How the supervisor connects: it trusts exactly the certificate that it starts the server with.

        Shakes hands in memory first. Raises ConfigError when a file cannot be read, a certificate is over or does not
        belong to its key, or the client's CA did not sign the supervisor's.
        """
        for option, path in self._files().items():
            _check_readable(option, path)
        cert, key = self.supervisor_cert or self.cert, self.supervisor_key or self.key
        server = self._context(ssl.PROTOCOL_TLS_SERVER, "--tls-cert", self.cert, self.key)
        client = self._context(ssl.PROTOCOL_TLS_CLIENT, "--tls-supervisor-cert", cert, key)
        client.check_hostname = False  # it learns here which names the certificate has
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self._trust(client, "--tls-cert", self.cert)
        if self.client_ca:
            server.verify_mode = ssl.CERT_REQUIRED
            self._trust(server, "--tls-client-ca", self.client_ca)
        name = _name_of(self._shake_hands(server, client))
        if name is None:
            raise ConfigError(
                f"--tls-cert = {self.cert}: has no subject alternative name, which clients check; add one"
            )
        return Tls(self.cert, cert, key, name) if self.client_ca else Tls(self.cert, name=name)

    def _files(self) -> dict[str, Path]:
        if (self.supervisor_cert is None) != (self.supervisor_key is None):
            raise ConfigError("--tls-supervisor-cert and --tls-supervisor-key go together; give both or neither")
        files = {
            "--tls-cert": self.cert,
            "--tls-key": self.key,
            "--tls-client-ca": self.client_ca,
            "--tls-supervisor-cert": self.supervisor_cert,
            "--tls-supervisor-key": self.supervisor_key,
        }
        return {option: path for option, path in files.items() if path is not None}

    @staticmethod
    def _context(protocol: int, option: str, cert: Path, key: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        try:
            context.load_cert_chain(cert, key, password=lambda: "")  # never asks at the terminal
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"{option} = {cert}: does not go with the key {key} ({error}); give a PEM pair"
            ) from error
        return context

    @staticmethod
    def _trust(context: ssl.SSLContext, option: str, path: Path) -> None:
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            raise ConfigError(f"{option} = {path}: holds no PEM certificate ({error})") from error

    def _shake_hands(self, server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
        """The server's certificate as a client sees it."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        caller = client.wrap_bio(to_client, to_server)
        called = server.wrap_bio(to_server, to_client, server_side=True)
        shown = self._shown()
        for _ in range(3):
            for side, what in ((caller, f"--tls-cert = {self.cert}:"), (called, shown)):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLError as error:
                    why = getattr(error, "verify_message", None) or error.reason
                    raise ConfigError(f"{what} is refused ({why})") from error
        return dict(caller.getpeercert() or {})

    def _shown(self) -> str:
        if self.supervisor_cert:
            return f"--tls-supervisor-cert = {self.supervisor_cert}:"
        return f"--tls-client-ca = {self.client_ca}: for want of --tls-supervisor-cert it is shown --tls-cert, which"


def connection(url: str, tls: Tls | None, channel: ChannelArguments) -> dict[str, Any]:
    """What tritonclient's clients, both of them, are made with. Raises ConfigError for files that `tls` cannot mean."""
    if tls is None:
        return {"url": url, "channel_args": list(channel)}
    tls.check()
    override = [("grpc.ssl_target_name_override", tls.name)] if tls.name else []
    files = {"root_certificates": tls.ca, "private_key": tls.key, "certificate_chain": tls.cert}
    named = {option: None if path is None else str(path) for option, path in files.items()}
    return {"url": url, "channel_args": [*channel, *override], "ssl": True, **named}


def _name_of(certificate: dict[str, Any]) -> str | None:
    """A name or address that the certificate is valid for."""
    names: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
    found = [value for kind, value in names if kind in ("DNS", "IP Address")]
    return found[0].replace("*", "any", 1) if found else None


def _check_readable(option: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} = {path}: cannot be read ({error.strerror or error})") from error
