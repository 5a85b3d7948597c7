from pathlib import Path

import pytest

from shortlist.errors import ConfigError
from shortlist.events.local_log import LocalLog
from shortlist.events.transport import drain, open_sink, open_source, read_settings


@pytest.mark.parametrize(
    "where",
    [
        "kafka://",
        "kafka://host:9092",
        "kafka://host:9092/a/b",
        "kafka://me:secret@host/a",
        "kafka://host/a?b=c",
        "kafka://[::1",
    ],
)
def test_an_address_of_kafka_is_brokers_and_a_topic_and_nothing_else(where: str) -> None:
    with pytest.raises(ConfigError, match="are settings"):
        open_source(where)


def test_a_path_is_a_log_in_a_folder(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "log"))
    sink.append([(b"ann", b"a")])
    sink.close()
    assert [record.value for record in drain(open_source(str(tmp_path / "log")))] == [b"a"]


def test_the_last_records_of_each_partition_can_be_had_alone(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log", partitions=2)
    log.append([(b"%d" % (number % 7), b"%d" % number) for number in range(70)])
    source = open_source(str(tmp_path / "log"))
    ends = source.ends()
    assert {(record.partition, record.offset) for record in drain(source, last=1)} == {
        (0, ends[0] - 1),
        (1, ends[1] - 1),
    }
    log.close()


def test_settings_are_read_as_the_client_wants_them(tmp_path: Path) -> None:
    (tmp_path / "kafka.yaml").write_text(
        "security.protocol: ssl\nenable.ssl.certificate.verification: true\nlinger.ms: 5\n"
    )
    assert read_settings(tmp_path / "kafka.yaml") == {
        "security.protocol": "ssl",
        "enable.ssl.certificate.verification": "true",
        "linger.ms": "5",
    }


@pytest.mark.parametrize("text", ["- a\n", "a: [1]\n", "a: b: c\n"])
def test_a_file_that_is_no_mapping_of_settings_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "kafka.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"kafka\.yaml: "):
        read_settings(tmp_path / "kafka.yaml")


def test_a_log_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="name is empty"):
        open_sink("")
