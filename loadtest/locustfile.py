"""Locust users of a served cascade, over gRPC. `run` starts this; with Locust alone:

    locust -f loadtest/locustfile.py --target 127.0.0.1:8001 --bundle build/demo/cascade/1/bundle --headless

Every second of the test becomes a line of the record that `report` draws.
"""

from __future__ import annotations

import grpc.experimental.gevent

grpc.experimental.gevent.init_gevent()  # before the first channel

import json  # noqa: E402
import time  # noqa: E402
from itertools import count  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from locust import LoadTestShape, User, constant, events, task  # noqa: E402

from shortlist.loadtest.profiles import BAD, Profiles  # noqa: E402
from shortlist.loadtest.record import Record, Watch  # noqa: E402
from shortlist.loadtest.workloads import WORKLOADS  # noqa: E402

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PATIENCE = 30.0  # seconds after which a request has failed


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("shortlist")
    group.add_argument("--target", default="127.0.0.1:8001", help="host:port of the gRPC service")
    group.add_argument("--metrics", default="http://127.0.0.1:8002/metrics", help="URL of its metrics")
    group.add_argument("--bundle", required=True, help="bundle that users and items are taken from")
    group.add_argument("--workload", choices=list(WORKLOADS), default="steady")
    group.add_argument("--duration", type=float, default=60.0, help="seconds")
    group.add_argument("--most", type=int, default=32, help="users at the height of the load")
    group.add_argument("--deadline", type=float, default=0.0, help="milliseconds each answer may take; 0: any")
    group.add_argument("--server-pid", type=int, default=0, help="process of the server, where it is on this machine")
    group.add_argument("--record", default="", help="file that the record goes to")


@events.init.add_listener
def _prepare(environment: Any, **_: Any) -> None:
    given = environment.parsed_options
    environment.profiles, environment.numbers = Profiles(Path(given.bundle)), count()
    environment.record = Record()


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    given = environment.parsed_options
    environment.record = Record()
    environment.watching = gevent.spawn(_watch, environment, Watch(given.metrics, given.server_pid))


@events.test_stop.add_listener
def _stop(environment: Any, **_: Any) -> None:
    environment.watching.kill()
    given = environment.parsed_options
    if given.record:
        settings = {"workload": given.workload, "users": given.most, "deadline_ms": given.deadline}
        text = json.dumps({"settings": settings, "seconds": environment.record.seconds})
        Path(given.record).write_text(text, encoding="utf-8")


def _watch(environment: Any, watch: Watch) -> None:
    while True:
        gevent.sleep(1.0)
        environment.record.close_second(environment.runner.user_count, watch.look())


class Person(User):  # type: ignore[misc]
    """Asks again as soon as there is an answer."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect."""
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(self.environment.parsed_options.target, options)
        self.ask = self.channel.unary_unary(METHOD)

    def on_stop(self) -> None:
        """Disconnect."""
        self.channel.close()

    @task
    def recommend(self) -> None:
        """Send the next request of all; bad ones must be refused, others be answered in time or refused as late."""
        deadline = self.environment.parsed_options.deadline or None
        sent = self.environment.profiles.request(next(self.environment.numbers), deadline, time.time_ns() // 1000)
        started, answer, code, error = time.perf_counter(), b"", "OK", None
        try:
            answer = self.ask(sent.message, timeout=PATIENCE)
        except grpc.RpcError as failed:
            code, error = failed.code().name, failed
        ms = 1e3 * (time.perf_counter() - started)
        expected = code == "INVALID_ARGUMENT" if sent.profile == BAD else code in ("OK", "CANCELLED")
        self.environment.record.answered(sent.profile, code, ms, expected)
        events.request.fire(
            request_type="gRPC",
            name=sent.profile if code != "CANCELLED" else f"{sent.profile}, refused as late",
            response_time=ms,
            response_length=len(answer),
            exception=None if expected else error or ValueError(f"a bad request was answered: {code}"),
            context={},
        )


class Shape(LoadTestShape):  # type: ignore[misc]
    """The workload that was asked for."""

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many may come a second; None ends the test."""
        given, done = self.runner.environment.parsed_options, 0.0
        done = self.get_run_time() / given.duration
        return None if done >= 1 else (WORKLOADS[given.workload](done, given.most), 1000)
