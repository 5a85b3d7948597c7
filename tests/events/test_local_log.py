"""The log in a folder: what is acknowledged stays, whatever is killed; what is read is durable."""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from shortlist.errors import ConfigError
from shortlist.events import local_log
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.events.transport import OffsetError, Sink, Source, TransportError, drain

# Four threads append and say what was acknowledged, until the process is killed.
WRITER = """
import sys, threading
from pathlib import Path
from shortlist.events.local_log import LocalLog
log = LocalLog(Path(sys.argv[1]), segment_bytes=20_000)
lock = threading.Lock()
def work(thread):
    for number in range(10**9):
        names = [f"{sys.argv[2]}-{thread}-{number}-{part}" for part in range(3)]
        log.append([(name.encode(), name.encode() * 20) for name in names])
        with lock:
            print(*names, sep="\\n", flush=True)
for thread in range(4):
    threading.Thread(target=work, args=(thread,)).start()
"""


@pytest.fixture
def log(tmp_path: Path):
    with_two = LocalLog(tmp_path / "log", partitions=2)
    yield with_two
    with_two.close()


def read(source: LocalSource) -> list[bytes]:
    return [record.value for record in drain(source)]


def append(log: LocalLog, *values: bytes, key: bytes = b"ann") -> None:
    log.append([(key, value) for value in values])


def segment(folder: Path) -> Path:
    return max((folder / "log" / "0").glob("*.segment"))


def test_it_is_a_sink_and_a_source(log: LocalLog, tmp_path: Path) -> None:
    assert isinstance(log, Sink)
    assert isinstance(LocalSource(tmp_path / "log"), Source)


def test_a_file_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "history.csv").touch()
    with pytest.raises(TransportError, match=r"history\.csv: is a file; a log is a folder"):
        LocalLog(tmp_path / "history.csv")


def test_records_come_back_in_order_with_their_offsets(log: LocalLog, tmp_path: Path) -> None:
    append(log, *[b"%d" % number for number in range(100)])
    records = list(drain(LocalSource(tmp_path / "log")))
    assert [(record.offset, record.value) for record in records] == [(n, b"%d" % n) for n in range(100)]


def test_a_key_stays_in_one_partition_and_keys_use_all(log: LocalLog, tmp_path: Path) -> None:
    for _ in range(3):
        log.append([(b"%d" % user, b"%d" % user) for user in range(20)])
    places = {(record.value, record.partition) for record in drain(LocalSource(tmp_path / "log"))}
    assert (len(places), {partition for _, partition in places}) == (20, {0, 1})


def test_a_source_goes_where_it_is_told(log: LocalLog, tmp_path: Path) -> None:
    append(log, b"a", b"b", b"c", b"d")
    source = LocalSource(tmp_path / "log")
    (partition,) = (number for number, end in source.ends().items() if end)
    source.on_assigned(lambda partitions: source.seek(partition, 2))
    assert [record.value for record in source.poll(10, 0)] == [b"c", b"d"]


def test_a_source_of_some_partitions_reads_no_others(log: LocalLog, tmp_path: Path) -> None:
    log.append([(b"%d" % user, b"%d" % user) for user in range(20)])
    source = LocalSource(tmp_path / "log", partitions=[1])
    assert {record.partition for record in source.poll(100, 0)} == {1}


@pytest.mark.parametrize("offset", [-1, 4])
def test_an_offset_that_the_log_does_not_hold_is_refused(log: LocalLog, tmp_path: Path, offset: int) -> None:
    append(log, b"a", b"b", b"c")
    with pytest.raises(OffsetError, match="the log holds 0 to"):
        LocalSource(tmp_path / "log").seek(0, offset)


def test_a_reader_in_another_process_follows_the_growing_log(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log", segment_bytes=500)
    code = (
        "import sys; from pathlib import Path; from shortlist.events.local_source import LocalSource\n"
        "source = LocalSource(Path(sys.argv[1]))\n"
        "while True:\n"
        "    for record in source.poll(100, 1.0): print(record.value.decode(), flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "log"], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        for number in range(50):
            append(log, b"%d" % number)
            assert reader.stdout.readline() == f"{number}\n"
        reader.kill()
    log.close()


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    pause = random.Random(0)
    for life in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "log", str(life)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged.add(writer.stdout.readline().strip())
            time.sleep(pause.uniform(0.02, 0.2))
            writer.kill()
            acknowledged |= {line.strip() for line in writer.stdout if line.endswith("\n")}
    LocalLog(tmp_path / "log").close()
    found = [value[: len(value) // 20].decode() for value in read(LocalSource(tmp_path / "log"))]
    assert acknowledged <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("tail", [b"\x01", bytes(40), b"\x00\x00\x00\x00\x05\x00\x00\x00" + b"x" * 40])
def test_a_torn_tail_is_cut_off_on_open(tmp_path: Path, tail: bytes) -> None:
    log = LocalLog(tmp_path / "log")
    append(log, b"a", b"b")
    log.close()
    with segment(tmp_path).open("ab") as file:
        file.write(tail)
    log = LocalLog(tmp_path / "log")
    append(log, b"c")
    assert read(LocalSource(tmp_path / "log")) == [b"a", b"b", b"c"]
    log.close()


def _spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)


def test_a_writer_refuses_a_log_whose_acknowledged_records_are_damaged(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log")
    append(log, b"a" * 50, b"b")
    log.close()
    _spoil(segment(tmp_path))
    with pytest.raises(TransportError, match="damaged at byte 0"):
        LocalLog(tmp_path / "log")


def test_a_reader_stops_at_damage_and_names_the_place(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log")
    append(log, b"a" * 50, b"b")
    _spoil(segment(tmp_path))
    with pytest.raises(TransportError, match="damaged at byte 0"):
        LocalSource(tmp_path / "log").poll(10, 0)
    log.close()


def test_what_is_not_durable_yet_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLog(tmp_path / "log")
    source, seen = LocalSource(tmp_path / "log"), []
    sync = os.fdatasync

    def look_then_sync(descriptor: int) -> None:
        seen.append(source.poll(10, 0))
        sync(descriptor)

    monkeypatch.setattr(local_log.os, "fdatasync", look_then_sync)
    append(log, b"a")
    append(log, b"b")
    assert [[record.value for record in records] for records in seen] == [[], [b"a"]]
    log.close()


def test_calls_that_arrive_together_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, syncs = LocalLog(tmp_path / "log"), []
    everyone = threading.Barrier(20)

    def slow(descriptor: int) -> None:
        syncs.append(descriptor)
        time.sleep(0.2)

    def call() -> None:
        everyone.wait()
        append(log, b"a")

    monkeypatch.setattr(local_log.os, "fdatasync", slow)
    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(LocalSource(tmp_path / "log"))) == 20
    assert len(syncs) < 20
    log.close()


def test_a_failed_write_is_told_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LocalLog(tmp_path / "log")
    append(log, b"a")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(local_log.os, "fdatasync", fail)
        with pytest.raises(TransportError, match=r"No space left on device.*send them again"):
            append(log, b"lost")
    append(log, b"b")
    assert read(LocalSource(tmp_path / "log")) == [b"a", b"b"]
    log.close()


def test_a_second_writer_is_refused(log: LocalLog, tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="another process writes to this log"):
        LocalLog(tmp_path / "log")


def test_old_segments_go_when_the_log_is_too_large(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log", segment_bytes=1_000, retention_bytes=5_000)
    for number in range(100):
        append(log, b"%3d" % number * 50)
    source = LocalSource(tmp_path / "log")
    kept = read(source)
    assert (kept[-1][:3], len(kept)) == (b" 99", 100 - source.begin()[0])
    assert 3_000 <= sum(map(len, kept)) <= 6_500
    log.close()


def test_a_reader_that_retention_overtook_is_told(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log", segment_bytes=1_000, retention_bytes=5_000)
    append(log, b"first")
    source = LocalSource(tmp_path / "log")
    source.seek(0, 1)
    for number in range(100):
        append(log, b"%3d" % number * 50)
    with pytest.raises(OffsetError, match="offset 1 of"):
        source.poll(10, 0)
    log.close()


def test_a_log_made_anew_in_the_same_place_has_another_name(tmp_path: Path) -> None:
    LocalLog(tmp_path / "log").close()
    before = LocalSource(tmp_path / "log").name
    (tmp_path / "log").rename(tmp_path / "old")
    LocalLog(tmp_path / "log").close()
    assert LocalSource(tmp_path / "log").name != before


def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    LocalLog(tmp_path / "log", partitions=2).close()
    with pytest.raises(ConfigError, match=r"the log in .* has 2"):
        LocalLog(tmp_path / "log", partitions=3)


@pytest.mark.parametrize("size", [0, 4, 24])
def test_a_log_whose_list_of_offsets_is_damaged_is_named(tmp_path: Path, size: int) -> None:
    LocalLog(tmp_path / "log", partitions=2).close()
    (tmp_path / "log" / "durable").write_bytes(bytes(size))
    for opened in (LocalLog, LocalSource):
        with pytest.raises(TransportError, match="durable is damaged"):
            opened(tmp_path / "log")


def test_a_strangers_file_among_the_segments_is_passed_over(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log.append([(b"ann", b"1")])
    log.close()
    (tmp_path / "0" / "copy.segment").write_bytes(b"2")
    LocalLog(tmp_path).close()
    assert [record.value for record in drain(LocalSource(tmp_path))] == [b"1"]


def test_a_folder_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="holds no event log"):
        LocalSource(tmp_path)
