"""`shortlist serve`: a supervised Triton server over a model repository, until Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.errors import ConfigError, ShortlistError
from shortlist.profiles import PATIENCE_MS, PRECOMPUTED, PROFILES_URL

if TYPE_CHECKING:
    from shortlist.serving.process import Address
    from shortlist.serving.realtime import Realtime
    from shortlist.serving.tls import ServerTls


def serve(
    repository: Annotated[Path, typer.Argument(help="Model repository made by `shortlist export`.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the inference service.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prometheus metrics.")] = 8002,
    http: Annotated[bool, typer.Option(help="Open Triton's HTTP port too; nested JSON can crash it.")] = False,
    http_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of HTTP.")] = 8000,
    instances: Annotated[
        int | None, typer.Option(min=1, help="Processes a model, on each GPU; by default as exported.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, gpu, or auto: a GPU where there is one; by default as exported.")
    ] = None,
    stages: Annotated[bool, typer.Option(help="Serve the stage models and their ensemble too.")] = False,
    profiles: Annotated[
        str | None,
        typer.Option(envvar=PROFILES_URL, help="Store of live profiles: valkey://[user:password@]host:port/database."),
    ] = None,
    profiles_ms: Annotated[
        float, typer.Option(min=0.1, help="Answer from stored histories (stale_profile) where it takes longer to read.")
    ] = 5.0,
    realtime: Annotated[
        Path | None, typer.Option(help="Keep events and live profiles in this folder: store, consumer and gateway too.")
    ] = None,
    precomputed: Annotated[
        bool,
        typer.Option(help="Answer with slates that `shortlist precompute` left in the store, where they are fresh."),
    ] = False,
    gateway_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the gateway of --realtime.")] = 8080,
    tls_cert: Annotated[Path | None, typer.Option(help="Speak TLS over gRPC, with this certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key (PEM).")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Let in only clients whose certificate this authority signed (PEM).")
    ] = None,
    tls_supervisor_cert: Annotated[
        Path | None, typer.Option(help="The supervisor's own, if --tls-cert is no client's certificate (PEM).")
    ] = None,
    tls_supervisor_key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    log_format: Annotated[str, typer.Option(help="text, or json: one object a line.")] = "text",
    slow_ms: Annotated[float, typer.Option(min=0, help="Log batches that take longer than this many ms.")] = 250.0,
    otlp: Annotated[
        str | None, typer.Option(help="Send OpenTelemetry spans to this OTLP/HTTP receiver (http://host:4318).")
    ] = None,
    otlp_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Share of traces begun here; a caller's sampled trace goes on anyway.")
    ] = 0.01,
    verbose: Annotated[bool, typer.Option(help="Show all of Triton's log, not only its complaints.")] = False,
) -> None:
    """Serve a model repository over gRPC, and keep it answering: what is killed comes back.

    A new version in the repository is loaded beside the old one and takes over; on a GPU, plans that it came without
    are built first, beside the server. Ctrl-C or SIGTERM lets requests in flight finish, then stops.

    With --profiles, answers reflect what people did a moment ago; a store that is down delays nobody. --realtime brings
    all that this takes on one machine: events posted to its gateway change the next slate.

    Example: shortlist serve build/demo --realtime build/realtime
    """
    from shortlist.serving.builds import PlanBuilds
    from shortlist.serving.logs import SLOW_MS, Lines
    from shortlist.serving.process import Address, usable_cores
    from shortlist.serving.repository import served_models
    from shortlist.serving.supervisor import Supervisor
    from shortlist.serving.tracing import environment_for
    from shortlist.serving.where import settle

    as_json = _is_json(log_format)
    lines = Lines(lambda line: typer.echo(line, err=True), as_json, verbose)
    tls = _tls(tls_cert, tls_key, tls_client_ca, tls_supervisor_cert, tls_supervisor_key, http)
    address = Address(host, grpc_port, metrics_port, http_port if http else None)
    _check_profiles(profiles, realtime, tls is not None)
    if precomputed and not (profiles or realtime):
        raise ConfigError("--precomputed: slates lie in a store of live profiles; give --profiles or --realtime too")
    signal.signal(signal.SIGTERM, interrupt)
    try:
        where = settle(repository, device, lines.say, instances, stages)
        models = served_models(repository, stages, where)
        if where.device != where.wanted and instances is None:
            instances = usable_cores()  # the repository's number is that of a GPU
        builds = PlanBuilds(repository, lines.say)
        with ExitStack() as stack:
            stack.enter_context(builds)
            live = stack.enter_context(_realtime(realtime, repository, gateway_port, lines.say)) if realtime else None
            store = live.store if live else profiles
            supervisor = Supervisor(
                repository,
                address,
                models=models,
                instances=instances,
                where=where if device else None,
                ready=builds.ready if where.device == "gpu" else lambda _: True,
                on_log=lines.server,
                on_event=lines.say,
                tls=tls,
                environment={
                    SLOW_MS: str(slow_ms),
                    **environment_for(otlp, otlp_ratio),
                    **({PROFILES_URL: store, PATIENCE_MS: str(profiles_ms)} if store else {}),
                    **({PRECOMPUTED: "1"} if precomputed else {}),
                },
            )
            stack.enter_context(supervisor)
            places = {"grpc": address.grpc, "metrics": address.metrics}
            if live:
                places["gateway"] = live.open_gateway(_reached(address), gateway_port)
            what = f"serving {repository} on the {where.device.upper()}: {', '.join(models)}"
            if as_json:
                lines.say(what, "serving", **places, tls=tls is not None)
            else:
                shown = [f"{'gRPC' if name == 'grpc' else name:8} {place}" for name, place in places.items()]
                typer.echo("\n".join([what, *shown, "Ctrl-C stops"]))
            try:
                supervisor.wait()
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt:
        lines.say("stopped", "stopped") if as_json else typer.echo("stopped")
    except ShortlistError as error:
        if not as_json:
            raise
        lines.say(str(error), "failed", "error")
        raise typer.Exit(1) from error


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Signal handler: end as Ctrl-C does."""
    raise KeyboardInterrupt


def _check_profiles(profiles: str | None, realtime: Path | None, tls: bool) -> None:
    """Raise ConfigError for options that do not go together, or a malformed URL; a store may be down."""
    if realtime and profiles:
        raise ConfigError(f"--profiles (or {PROFILES_URL}): --realtime brings a store of its own; give one of the two")
    if realtime and tls:
        raise ConfigError(
            "--realtime: its gateway speaks plain gRPC, on this machine; with --tls-*, leave it out and start "
            "`shortlist events consume` and `shortlist gateway --grpc-tls-ca …` beside this"
        )
    if profiles:
        from shortlist.profiles.store import connection_to

        try:
            connection_to(profiles, timeout_s=1.0)
        except ConfigError as error:
            raise ConfigError(f"--profiles: {error}") from error


def _realtime(folder: Path, repository: Path, gateway_port: int, tell: Callable[[str], object]) -> Realtime:
    """The parts of --realtime, for the bundle that is the repository's newest when they start."""
    from shortlist.serving.realtime import Realtime, check_port
    from shortlist.serving.tensors import CASCADE
    from shortlist.serving.versions import check_repository, loadable

    check_repository(repository, [CASCADE.name])
    check_port(gateway_port)  # before Triton starts, which takes seconds
    models = repository / CASCADE.name
    return Realtime(folder, lambda: models / max(loadable(models), key=int, default="1") / "bundle", tell)


def _reached(address: Address) -> str:
    """Where this machine reaches a server that listens at `address`."""
    return f"127.0.0.1:{address.grpc_port}" if address.host in ("0.0.0.0", "::") else address.grpc


def _is_json(log_format: str) -> bool:
    if log_format not in ("text", "json"):
        raise ConfigError(f"--log-format = {log_format!r}: text or json is allowed")
    return log_format == "json"


def _tls(
    cert: Path | None, key: Path | None, client_ca: Path | None, own: Path | None, own_key: Path | None, http: bool
) -> ServerTls | None:
    """What the options of TLS say. Raises ConfigError where they do not go together."""
    from shortlist.serving.tls import ServerTls

    if cert is None or key is None:
        if any((cert, key, client_ca, own, own_key)):
            raise ConfigError("--tls-cert and --tls-key: TLS needs both; give them, or leave all of --tls-* out")
        return None
    if http:
        raise ConfigError("--http: Triton's HTTP has no TLS, and would stand open beside it; leave --http out")
    return ServerTls(cert, key, client_ca, own, own_key)
