"""`shortlist serve`: a supervised Triton server over a model repository, until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.errors import ConfigError, ShortlistError
from shortlist.profiles import PROFILES_URL

if TYPE_CHECKING:
    from shortlist.serving.logs import Lines
    from shortlist.serving.start import Options, Started
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
    consumer_metrics_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the metrics of --realtime's consumer of events.")
    ] = 8003,
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
    from shortlist.serving.logs import Lines
    from shortlist.serving.process import Address
    from shortlist.serving.start import Options

    as_json = _is_json(log_format)
    options = Options(
        repository=repository,
        address=Address(host, grpc_port, metrics_port, http_port if http else None),
        tls=_tls(tls_cert, tls_key, tls_client_ca, tls_supervisor_cert, tls_supervisor_key, http),
        instances=instances,
        device=device,
        stages=stages,
        profiles=profiles,
        profiles_ms=profiles_ms,
        realtime=realtime,
        gateway_port=gateway_port,
        consumer_metrics_port=consumer_metrics_port,
        precomputed=precomputed,
        slow_ms=slow_ms,
        otlp=otlp,
        otlp_ratio=otlp_ratio,
    )
    options.check()
    _serve_until_stopped(options, Lines(lambda line: typer.echo(line, err=True), as_json, verbose), as_json)


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Signal handler: end as Ctrl-C does."""
    raise KeyboardInterrupt


def _serve_until_stopped(options: Options, lines: Lines, as_json: bool) -> None:
    """Start, say where, and wait for Ctrl-C or SIGTERM. In a JSON log our own errors are a line, too."""
    from shortlist.serving.start import started

    signal.signal(signal.SIGTERM, interrupt)
    try:
        with started(options, lines) as served:
            _tell(options, served, lines, as_json)
            try:
                served.supervisor.wait()
            finally:  # what ends in order is not interrupted again
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt:
        lines.say("stopped", "stopped") if as_json else typer.echo("stopped")
    except ShortlistError as error:
        if not as_json:
            raise
        lines.say(str(error), "failed", "error")
        raise typer.Exit(1) from error


def _tell(options: Options, served: Started, lines: Lines, as_json: bool) -> None:
    """What is served, and where: an event of the JSON log, or text on standard output."""
    what = f"serving {options.repository} on the {served.device.upper()}: {', '.join(served.models)}"
    if as_json:
        lines.say(what, "serving", **served.places, tls=options.tls is not None)
    else:
        shown = [f"{'gRPC' if name == 'grpc' else name:8} {place}" for name, place in served.places.items()]
        typer.echo("\n".join([what, *shown, "Ctrl-C stops"]))


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
