"""`shortlist precompute`: slates of the most active people, made before they are asked for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.cli.options import Grpc, GrpcTls, GrpcTlsCa, GrpcTlsCert, GrpcTlsKey, GrpcTlsName, Profiles, tls_of
from shortlist.errors import ShortlistError

if TYPE_CHECKING:
    from shortlist.serving.precompute import Cycle, Precompute


def precompute(
    repository: Annotated[Path, typer.Argument(help="Model repository that is served; or a run, or a bundle.")],
    profiles: Profiles,
    grpc: Grpc = "127.0.0.1:8001",
    top_users: Annotated[int, typer.Option(help="How many of the most active people get a slate.", min=0)] = 1000,
    every: Annotated[
        float | None, typer.Option(help="Seconds from one cycle to the next; without, one.", min=1)
    ] = None,
    ttl: Annotated[float, typer.Option(help="Seconds that a slate is kept at most.", min=1)] = 3600,
    segments: Annotated[bool, typer.Option(help="Make the lists of segments too.")] = True,
    grpc_tls: GrpcTls = False,
    grpc_tls_ca: GrpcTlsCa = None,
    grpc_tls_cert: GrpcTlsCert = None,
    grpc_tls_key: GrpcTlsKey = None,
    grpc_tls_name: GrpcTlsName = None,
) -> None:
    """Ask a server for the slates of its most active people, and keep them where it finds them.

    The server uses them when it was started with --precomputed. Ctrl-C stops.

    Example: shortlist precompute build/demo --profiles valkey://127.0.0.1:6379/0 --top-users 1000 --every 60
    """
    from shortlist.profiles.store import ProfileStore
    from shortlist.serving.client import Client
    from shortlist.serving.precompute import Precompute, served_bundle

    store = ProfileStore(profiles)
    tls = tls_of(grpc_tls, grpc_tls_ca, grpc_tls_cert, grpc_tls_key, grpc_tls_name)
    with Client(grpc, tls=tls) as client:
        job = Precompute(
            lambda: served_bundle(repository), client, store, top_users=top_users, ttl_s=ttl, segments=segments
        )
        try:
            while True:
                if every is None:
                    typer.echo(_told(job.cycle()))
                    return
                _try(job, every)
                time.sleep(every)
        except KeyboardInterrupt:
            typer.echo("stopped")
        finally:
            store.close()


def _try(job: Precompute, every: float) -> None:
    """One of many cycles: a server or a store that is away for a while ends none but this one."""
    try:
        typer.echo(_told(job.cycle(every)))
    except ShortlistError as error:
        typer.echo(f"nothing made: {error}", err=True)


def _told(cycle: Cycle) -> str:
    return (
        f"{cycle.made} slates made, {cycle.fresh} of {cycle.people} still fresh, {cycle.left} left for later; "
        f"{cycle.segments} segments; {cycle.seconds:.1f} s"
    )
