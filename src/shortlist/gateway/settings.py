"""What a gateway is started with, and the few bounds that are the same for everybody."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shortlist.errors import ConfigError
from shortlist.serving.tls import Tls

MAX_BODY = 256 * 1024  # bytes
MAX_HEAD = 32 * 1024  # bytes of request line and headers
MAX_EVENTS = 500  # of one batch
HEAD_SECONDS = 10.0  # in which a request's line and headers have to come
BODY_SECONDS = 10.0
REQUEST_SECONDS = 15.0
STALLED_SECONDS = 20.0  # after which a client that takes nothing is cut off
MAX_CONNECTIONS = 2000
MAX_LIVE = 500  # WebSockets
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-]+(:\d{1,5})?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?")


@dataclass(frozen=True)
class Settings:
    """How one gateway is set up. Plain values only, so that a child process can be given it."""

    grpc: str = "127.0.0.1:8001"  # where Triton answers
    grpc_tls: Tls | None = None
    events: str | None = None  # a folder, or kafka://host:port/topic; None: events are refused
    kafka: Mapping[str, str] = field(default_factory=dict)  # further settings of Kafka's client: TLS, users
    profiles: str | None = None  # valkey://host:port/db; None: no profiles, nothing live
    host: str = "127.0.0.1"
    port: int = 8080  # 0 takes a free one
    keys: Path | None = None  # None: everybody may do everything, on this machine alone
    audit: Path | None = None  # JSON lines
    origins: tuple[str, ...] = ()  # web pages of other hosts that may call, such as https://shop.example
    proxies: tuple[str, ...] = ()  # addresses whose X-Forwarded-For is believed
    cert: Path | None = None  # PEM: speak HTTPS
    key: Path | None = None
    rate: float = 50.0  # requests a second for one key at one address, in the long run
    burst: int = 200  # requests at once
    titles: Mapping[str, str] = field(default_factory=dict)  # item id -> title, for the live page

    def check(self) -> None:
        """Raise ConfigError for what does not go together, or would open the gateway to strangers."""
        if self.keys is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host = {self.host}: without --keys only this machine is let in (127.0.0.1, ::1, localhost); make a "
                "key with `shortlist gateway --make-key admin --keys FILE`"
            )
        if (self.cert is None) != (self.key is None):
            raise ConfigError("--tls-cert and --tls-key: HTTPS needs both; give them, or leave both out")
        if self.cert and self.key:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key, password=lambda: "")
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"--tls-cert = {self.cert}, --tls-key = {self.key}: no PEM certificate with its key ({error})"
                ) from error
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ConfigError(f"--origin = {origin}: scheme://host[:port] is allowed, such as https://shop.example")
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ConfigError(f"--proxy = {proxy}: {error}; such as 10.0.0.1 or 10.0.0.0/8 is allowed") from error
        if not 1e-3 <= self.rate < float("inf") or self.burst < 1:  # NaN is not, either
            raise ConfigError(
                f"--rate = {self.rate:g}, --burst = {self.burst}: at least 0.001, and at least 1, is allowed"
            )
        if self.grpc_tls:
            self.grpc_tls.check()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
