"""What is the same for all clients of Kafka: their settings, what they complain of, and their errors as our own.

`kafka` writes and reads. Some settings are not for the user to choose: profiles are exact because of them.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from shortlist.errors import ConfigError
from shortlist.events.transport import TransportError

_log = logging.getLogger(__name__)
_QUIET_S = 30.0  # between two complaints of one kind
_PRODUCER = {
    "linger.ms": "2",
    "delivery.timeout.ms": "30000",
}
_CONSUMER = {
    "session.timeout.ms": "10000",  # how soon the partitions of a killed consumer go to another
    "fetch.wait.max.ms": "50",  # a fetch that is under way delays a change of place
}
_FIXED_PRODUCER = {
    "enable.idempotence": "true",
    "acks": "all",
    "partitioner": "murmur2_random",  # as Java's clients do: a key has one partition, whoever produces
}
_FIXED_CONSUMER = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "auto.offset.reset": "error",
    "partition.assignment.strategy": "range",
}
_OURS = {*_FIXED_PRODUCER, *_FIXED_CONSUMER, "bootstrap.servers", "group.id", "group.protocol"}


def plain_config(servers: str, settings: Mapping[str, str] | None) -> dict[str, Any]:
    """Of a client that neither writes nor reads."""
    return _config(servers, settings, {}, {})


def producer_config(servers: str, settings: Mapping[str, str] | None) -> dict[str, Any]:
    """Of a producer whose records are acknowledged by all replicas, and arrive once. Raises ConfigError."""
    return _config(servers, settings, _PRODUCER, _FIXED_PRODUCER)


def consumer_config(servers: str, group: str, settings: Mapping[str, str] | None) -> dict[str, Any]:
    """Of a member of `group` that commits nothing and does not choose its own offsets. Raises ConfigError."""
    return _config(servers, settings, _CONSUMER, {**_FIXED_CONSUMER, "group.id": group})


def _config(
    servers: str, settings: Mapping[str, str] | None, defaults: Mapping[str, str], fixed: Mapping[str, str]
) -> dict[str, Any]:
    if taken := sorted(_OURS & set(settings or {})):
        raise ConfigError(
            f"settings {taken}: these are set by Shortlist, exactly-once profiles depend on them; leave out"
        )
    return {
        "client.id": "shortlist",
        "error_cb": Complaints().note,
        **defaults,
        **(settings or {}),
        **fixed,
        "bootstrap.servers": servers,
    }


class Complaints:
    """What a client says of its connections, which it tries anew ten times a second."""

    def __init__(self) -> None:
        self._said: dict[int, float] = {}

    def note(self, error: KafkaError) -> None:
        """Log an error unless one of its kind was logged a moment ago."""
        now = time.monotonic()
        if now >= self._said.get(error.code(), 0.0) + _QUIET_S:
            self._said[error.code()] = now
            _log.warning("kafka: %s", error.str())


class ClientLog:
    """The client's own log. Of connections that fail it has a line for each try; `Complaints` tells of those."""

    def log(self, level: int, form: str, *words: str) -> None:
        """Log unless it is a failed connection; the first of the words says what it is about."""
        if words[:1] != ("FAIL",):
            _log.log(level, form, *words)


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """The client's errors as our own."""
    try:
        yield
    except KafkaException as error:
        raise TransportError(f"{where}: {error.args[0].str()}; is the broker running, does the topic exist?") from error


@contextlib.contextmanager
def configured(where: str) -> Iterator[None]:
    """What the client says of its settings, as our own error."""
    try:
        yield
    except KafkaException as error:
        raise ConfigError(f"{where}: settings: {error.args[0].str()}") from error
