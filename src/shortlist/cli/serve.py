"""`shortlist serve`: a supervised Triton server over a model repository, until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer


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
    verbose: Annotated[bool, typer.Option(help="Show all of Triton's log, not only its complaints.")] = False,
) -> None:
    """Serve a model repository over gRPC, and keep it answering: what is killed comes back.

    A new version in the repository is loaded beside the old one and takes over. Ctrl-C or SIGTERM lets requests in
    flight finish, then stops.

    Example: shortlist serve build/demo --grpc-port 8001 --metrics-port 8002
    """
    from shortlist.serving.process import Address, usable_cores
    from shortlist.serving.repository import served_models
    from shortlist.serving.supervisor import Supervisor
    from shortlist.serving.where import settle

    address = Address(host, grpc_port, metrics_port, http_port if http else None)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        where = settle(repository, device, lambda line: typer.echo(line, err=True), instances)
        models = served_models(repository, stages, where)
        if where.device != where.wanted and instances is None:
            instances = usable_cores()  # the repository's number is that of a GPU
        supervisor = Supervisor(
            repository,
            address,
            models=models,
            instances=instances,
            where=where if device else None,
            on_log=lambda line: typer.echo(line, err=True) if verbose or _complains(line) else None,
            on_event=lambda event: typer.echo(event, err=True),
        )
        with supervisor:
            typer.echo(f"serving {repository} on the {where.device.upper()}: {', '.join(models)}")
            typer.echo(f"gRPC     {address.grpc}")
            typer.echo(f"metrics  {address.metrics}")
            typer.echo("Ctrl-C stops")
            try:
                supervisor.wait()
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except KeyboardInterrupt:
        typer.echo("stopped")


def interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Signal handler: end as Ctrl-C does."""
    raise KeyboardInterrupt


def _complains(line: str) -> bool:
    """Triton's warnings and errors, without those that a machine without a GPU always shows."""
    harmless = ("CudaDriverHelper", "pinned system memory", "DCGM", "NVML")
    return line[:2] in ("W1", "E1", "W0", "E0") and not any(word in line for word in harmless)
