"""All that `shortlist serve` starts, as one: the supervised server, builds of plans, and the parts of --realtime.

`Options` is what was asked for; `started` brings it up part after part, and ends it in the opposite order. How a
command line says it and what is printed is the business of `cli.serve`; each part, once it runs, watches itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from shortlist.errors import ConfigError
from shortlist.profiles import PATIENCE_MS, PRECOMPUTED, PROFILES_URL
from shortlist.serving.builds import PlanBuilds
from shortlist.serving.logs import SLOW_MS, Lines
from shortlist.serving.process import Address, usable_cores
from shortlist.serving.repository import served_models
from shortlist.serving.status import bundle_now
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tensors import CASCADE
from shortlist.serving.tls import ServerTls
from shortlist.serving.tracing import environment_for
from shortlist.serving.versions import check_repository
from shortlist.serving.where import Where, settle

if TYPE_CHECKING:
    from shortlist.serving.realtime import Realtime


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to serve and how; `shortlist serve --help` says what each of them means."""

    repository: Path
    address: Address
    tls: ServerTls | None
    instances: int | None
    device: str | None
    stages: bool
    profiles: str | None  # a store that others keep
    profiles_ms: float
    realtime: Path | None  # the folder of a store of our own, with all that fills it
    gateway_port: int
    consumer_metrics_port: int
    precomputed: bool
    slow_ms: float
    otlp: str | None
    otlp_ratio: float

    def check(self) -> None:
        """Raise ConfigError for options that do not go together, or a malformed URL; a store may be down."""
        if self.realtime and self.profiles:
            raise ConfigError(
                f"--profiles (or {PROFILES_URL}): --realtime brings a store of its own; give one of the two"
            )
        if self.realtime and self.tls:
            raise ConfigError(
                "--realtime: its gateway speaks plain gRPC, on this machine; with --tls-*, leave it out and start "
                "`shortlist events consume` and `shortlist gateway --grpc-tls-ca …` beside this"
            )
        if self.profiles:
            _check_url(self.profiles)
        if self.precomputed and not (self.profiles or self.realtime):
            raise ConfigError(
                "--precomputed: slates lie in a store of live profiles; give --profiles or --realtime too"
            )

    def environment(self, store: str | None) -> dict[str, str]:
        """Variables of the instances, which read the profiles in `store`. Raises ConfigError for a bad --otlp."""
        return {
            SLOW_MS: str(self.slow_ms),
            **environment_for(self.otlp, self.otlp_ratio),
            **({PROFILES_URL: store, PATIENCE_MS: str(self.profiles_ms)} if store else {}),
            **({PRECOMPUTED: "1"} if self.precomputed else {}),
        }


@dataclass(frozen=True)
class Started:
    """What answers now, and where."""

    device: str  # cpu or gpu
    models: Sequence[str]
    places: Mapping[str, str]  # grpc, metrics and, with --realtime, consumer (its metrics) and gateway
    supervisor: Supervisor


@contextlib.contextmanager
def started(options: Options, lines: Lines) -> Iterator[Started]:
    """Serve for as long as the context lasts; `lines` gets what all parts have to say.

    Raises ConfigError for what the repository or this machine cannot do, ServerError when a part does not start.
    """
    where = settle(options.repository, options.device, lines.say, options.instances, options.stages)
    models = served_models(options.repository, options.stages, where)
    with contextlib.ExitStack() as stack:
        builds = stack.enter_context(PlanBuilds(options.repository, lines.say))
        live = stack.enter_context(_realtime(options, lines.say)) if options.realtime else None
        store = live.store if live else options.profiles
        supervisor = stack.enter_context(_supervisor(options, where, models, builds, store, lines))
        places = {"grpc": options.address.grpc, "metrics": options.address.metrics}
        if live:
            places["consumer"] = live.metrics
            places["gateway"] = live.open_gateway(_reached(options.address), options.gateway_port)
        yield Started(where.device, models, places, supervisor)


def _supervisor(
    options: Options, where: Where, models: Sequence[str], builds: PlanBuilds, store: str | None, lines: Lines
) -> Supervisor:
    instances = options.instances
    if where.device != where.wanted and instances is None:
        instances = usable_cores()  # the repository's number is that of a GPU
    return Supervisor(
        options.repository,
        options.address,
        models=models,
        instances=instances,
        where=where if options.device else None,
        ready=builds.ready if where.device == "gpu" else lambda _: True,
        on_log=lines.server,
        on_event=lines.say,
        tls=options.tls,
        environment=options.environment(store),
    )


def _realtime(options: Options, tell: Callable[[str], object]) -> Realtime:
    """The parts of --realtime, for the bundle that is served."""
    from shortlist.serving.realtime import Realtime, check_port

    assert options.realtime is not None
    check_repository(options.repository, [CASCADE.name])
    ports = {"--gateway-port": options.gateway_port, "--consumer-metrics-port": options.consumer_metrics_port}
    options.address.check_distinct(ports)
    for option, port in ports.items():  # before Triton starts, which takes seconds
        check_port(port, option)
    bundle = partial(bundle_now, options.repository)
    return Realtime(options.realtime, bundle, tell, options.consumer_metrics_port)


def _reached(address: Address) -> str:
    """Where this machine reaches a server that listens at `address`."""
    return f"127.0.0.1:{address.grpc_port}" if address.host in ("0.0.0.0", "::") else address.grpc


def _check_url(profiles: str) -> None:
    from shortlist.profiles.store import connection_to

    try:
        connection_to(profiles, timeout_s=1.0)
    except ConfigError as error:
        raise ConfigError(f"--profiles: {error}") from error
