"""A real broker of Kafka's protocol for tests (noida-db; not Apache Kafka itself)."""

import socket
import subprocess
import time
from importlib.resources import files
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from shortlist.events.kafka import create_topic
from shortlist.serving.process import ends_with_us


class Broker:
    """One broker process on a loopback port, its data in a folder that outlives it; it ends with its starter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.servers = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = Path(str(files("noida_db").joinpath("noida-db")))
        program.chmod(0o755)
        options = ["--kafka-port", str(self.port), "--host", "127.0.0.1", "--data-dir", str(self.folder)]
        command = ends_with_us([str(program), "start", "--only", "kafka", *options])
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not self.answers():
            assert time.monotonic() < until, "the broker does not answer"
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether it tells its topics."""
        try:
            AdminClient({"bootstrap.servers": self.servers, "log_level": 0}).list_topics(timeout=1)
        except KafkaException:
            return False
        return True

    def rest(self) -> None:
        """Wait until its disk has what it acknowledged before: it writes all it has once a second.

        The write that brings the first topic may have begun before this call, with less; the one after has not.
        """
        for _ in range(2):
            self._wait_for_its_disk()

    def disk(self) -> bytes:
        """What its disk has now; it replaces the file whole."""
        return (self.folder / "kafka.json").read_bytes()

    def forget_since(self, disk: bytes) -> None:
        """End it at once and start it with the disk of then: what it acknowledged since is lost."""
        self.kill()
        (self.folder / "kafka.json").write_bytes(disk)
        self.start()

    def _wait_for_its_disk(self) -> None:
        topic, until = f"change-{time.time_ns()}", time.monotonic() + 60
        create_topic(self.servers, topic, 1)
        while not self._has_written(topic):
            assert time.monotonic() < until, "the broker writes nothing"
            time.sleep(0.05)

    def _has_written(self, topic: str) -> bool:
        return (self.folder / "kafka.json").exists() and topic.encode() in self.disk()

    def stop(self) -> None:
        """Ask it to end, as an operator does."""
        self._end("terminate")

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self._end("kill")

    def _end(self, how: str) -> None:
        if self.process is not None:
            getattr(self.process, how)()
            self.process.wait(60)
            self.process = None
