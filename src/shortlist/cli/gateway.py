"""`shortlist gateway`: REST, WebSocket, tracker and live page in front of a served cascade, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.errors import ConfigError

if TYPE_CHECKING:
    from shortlist.serving.tls import Tls


def gateway(
    grpc: Annotated[str, typer.Option(help="host:port of the server (`shortlist serve`).")] = "127.0.0.1:8001",
    events: Annotated[
        str | None, typer.Option(help="Where events go: a folder, or kafka://host:port/topic; by default refused.")
    ] = None,
    kafka_settings: Annotated[
        Path | None, typer.Option(help="YAML or JSON file of further settings of Kafka's client: TLS, users …")
    ] = None,
    profiles: Annotated[
        str | None,
        typer.Option(
            envvar="SHORTLIST_PROFILES", help="The profile store: valkey://host:port/0; by default nothing is live."
        ),
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
    grpc_tls: Annotated[
        bool, typer.Option(help="The server speaks TLS; its authority is one of the system's.")
    ] = False,
    grpc_tls_ca: Annotated[
        Path | None, typer.Option(help="PEM file of the authority that signed the server's.")
    ] = None,
    grpc_tls_cert: Annotated[Path | None, typer.Option(help="Our own certificate for the server (PEM).")] = None,
    grpc_tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
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
        grpc_tls=_tls(grpc_tls, grpc_tls_ca, grpc_tls_cert, grpc_tls_key),
        events=events,
        kafka=_kafka(kafka_settings),
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


def _tls(wanted: bool, ca: Path | None, cert: Path | None, key: Path | None) -> Tls | None:
    from shortlist.serving.tls import Tls

    return Tls(ca, cert, key) if wanted or ca or cert else None


def _kafka(path: Path | None) -> dict[str, str]:
    from shortlist.events.transport import read_settings

    return read_settings(path) if path else {}


def _each(values: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(values or ())
