"""`shortlist gateway`: REST, WebSocket, tracker and live page in front of a served cascade, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from shortlist.cli.options import Grpc, GrpcTls, GrpcTlsCa, GrpcTlsCert, GrpcTlsKey, GrpcTlsName, Kafka, tls_of
from shortlist.errors import ConfigError
from shortlist.profiles import PROFILES_URL


def gateway(
    grpc: Grpc = "127.0.0.1:8001",
    events: Annotated[
        str | None, typer.Option(help="Where events go: a folder, or kafka://host:port/topic; by default refused.")
    ] = None,
    kafka: Kafka = None,
    profiles: Annotated[
        str | None,
        typer.Option(envvar=PROFILES_URL, help="The profile store: valkey://host:port/0; by default nothing is live."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's own need --keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    keys: Annotated[Path | None, typer.Option(help="File of API keys' hashes; without it all is allowed.")] = None,
    make_key: Annotated[
        str | None, typer.Option(help="Add a key of this role (read, track, admin) to --keys, print it, and stop.")
    ] = None,
    key_name: Annotated[str, typer.Option(help="What the new key is called in the audit log.")] = "",
    audit: Annotated[Path | None, typer.Option(help="Append who asked for what to this file (JSON lines).")] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="Web pages that may call, such as https://shop.example; repeat it.")
    ] = None,
    proxy: Annotated[
        list[str] | None, typer.Option(help="Address of a proxy whose X-Forwarded-For is believed; repeat it.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Requests a second for one key at one address, in the long run.")] = 50,
    burst: Annotated[int, typer.Option(help="Requests that may come at once.")] = 200,
    run: Annotated[
        Path | None, typer.Option(help="Folder of the trained run, for the titles on the live page.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Speak HTTPS, with this certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key (PEM).")] = None,
    grpc_tls: GrpcTls = False,
    grpc_tls_ca: GrpcTlsCa = None,
    grpc_tls_cert: GrpcTlsCert = None,
    grpc_tls_key: GrpcTlsKey = None,
    grpc_tls_name: GrpcTlsName = None,
) -> None:
    """Open the way in for browsers: slates, events, profiles and a live page over HTTP and WebSocket.

    Example: shortlist gateway --events build/events --profiles valkey://127.0.0.1:6379/0
    """
    if make_key is not None:
        _make_key(make_key, keys, key_name)
        return
    from shortlist.cli.recommend import item_titles
    from shortlist.gateway.run import serve
    from shortlist.gateway.settings import Settings

    settings = Settings(
        grpc=grpc,
        grpc_tls=tls_of(grpc_tls, grpc_tls_ca, grpc_tls_cert, grpc_tls_key, grpc_tls_name),
        events=events,
        kafka=_kafka(kafka),
        profiles=profiles,
        host=host,
        port=port,
        keys=keys,
        audit=audit,
        origins=_each(origin),
        proxies=_each(proxy),
        cert=tls_cert,
        key=tls_key,
        rate=rate,
        burst=burst,
        titles=item_titles(run) if run else {},
    )
    serve(settings, lambda url: typer.echo(f"gateway  {url}\nCtrl-C stops"))


def _make_key(role: str, keys: Path | None, name: str) -> None:
    from shortlist.gateway.keys import make_key

    if keys is None:
        raise ConfigError("--make-key: --keys FILE says which file the key's hash is added to; give it too")
    typer.echo(make_key(role, keys, name))


def _kafka(path: Path | None) -> dict[str, str]:
    from shortlist.events.transport import read_settings

    return read_settings(path) if path else {}


def _each(values: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(values or ())
