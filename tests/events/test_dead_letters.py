import base64
from pathlib import Path

import msgspec

from shortlist.events.dead_letters import MAX_KEPT, DeadLetter, bury, read_letter
from shortlist.events.local_log import LocalLog
from shortlist.events.local_source import LocalSource
from shortlist.events.schema import EventError, parse
from shortlist.events.transport import Record, drain


def refuse(raw: bytes) -> DeadLetter:
    """The letter of a record that is no event."""
    try:
        parse(raw)
    except EventError as error:
        return DeadLetter.of("events", Record(3, 41, raw, 1_700_000_000_000), error)
    raise AssertionError("it was accepted")


def test_a_letter_says_where_the_record_lay_and_what_was_wrong() -> None:
    letter = refuse(b'{"event_id": "e"}')
    assert (letter.topic, letter.partition, letter.offset, letter.field) == ("events", 3, 41, "user_id")
    assert "is missing" in letter.reason


def test_text_is_kept_as_text_and_bytes_as_base64() -> None:
    text, other = (msgspec.json.decode(msgspec.json.encode(refuse(raw))) for raw in (b'{"a": "\xc3\xa9"}', b"\xff\x00"))
    assert text["raw"] == '{"a": "é"}'
    assert base64.b64decode(other["raw_base64"]) == b"\xff\x00"


def test_a_huge_record_is_kept_in_part_with_its_size() -> None:
    letter = refuse(b"x" * 1_000_000)
    assert (len(letter.value), letter.size) == (MAX_KEPT, 1_000_000)


def test_letters_come_back_from_the_folder_they_were_buried_in(tmp_path: Path) -> None:
    letters = [refuse(b"{}"), refuse(b"\xff")]
    sink = LocalLog(tmp_path / "dead")
    bury(sink, letters)
    sink.close()
    assert [read_letter(record.value) for record in drain(LocalSource(tmp_path / "dead"))] == letters
