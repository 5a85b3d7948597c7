"""`shortlist serve`: a supervised Triton server over a model repository, until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from shortlist.errors import ConfigError, ShortlistError

if TYPE_CHECKING:
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

    Example: shortlist serve build/demo --grpc-port 8001 --metrics-port 8002
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
    signal.signal(signal.SIGTERM, interrupt)
    try:
        where = settle(repository, device, lines.say, instances, stages)
        models = served_models(repository, stages, where)
        if where.device != where.wanted and instances is None:
            instances = usable_cores()  # the repository's number is that of a GPU
        builds = PlanBuilds(repository, lines.say)
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
            environment={SLOW_MS: str(slow_ms), **environment_for(otlp, otlp_ratio)},
        )
        with builds, supervisor:
            what = f"serving {repository} on the {where.device.upper()}: {', '.join(models)}"
            if as_json:
                lines.say(what, "serving", grpc=address.grpc, metrics=address.metrics, tls=tls is not None)
            else:
                typer.echo(f"{what}\ngRPC     {address.grpc}\nmetrics  {address.metrics}\nCtrl-C stops")
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
