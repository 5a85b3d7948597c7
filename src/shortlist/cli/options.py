"""Options that several verbs have, so that they are called and explained the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.profiles import PROFILES_URL

if TYPE_CHECKING:
    from shortlist.serving.tls import Tls

Profiles = Annotated[
    str,
    typer.Option(
        envvar=PROFILES_URL,
        help="Store of live profiles: valkey://[user:password@]host:port/db, valkeys:// for TLS, unix:///socket.",
    ),
]
Kafka = Annotated[
    Path | None, typer.Option(help="YAML or JSON file of further settings of Kafka's client: TLS, users …")
]
Grpc = Annotated[str, typer.Option(help="host:port of the server (`shortlist serve`).")]
GrpcTls = Annotated[bool, typer.Option(help="The server speaks TLS; its authority is one of the system's.")]
GrpcTlsCa = Annotated[Path | None, typer.Option(help="PEM file of the authority that signed the server's.")]
GrpcTlsCert = Annotated[Path | None, typer.Option(help="Our own certificate, for a server that asks (PEM).")]
GrpcTlsKey = Annotated[Path | None, typer.Option(help="Its key (PEM).")]
GrpcTlsName = Annotated[str | None, typer.Option(help="Name in the server's certificate, if not that of --grpc.")]


def tls_of(wanted: bool, ca: Path | None, cert: Path | None, key: Path | None, name: str | None) -> Tls | None:
    """What the options of TLS to the server say; None is plain gRPC."""
    from shortlist.serving.tls import Tls

    return Tls(ca, cert, key, name) if wanted or ca or cert or key or name else None
