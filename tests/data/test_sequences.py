from __future__ import annotations

from pathlib import Path

import pytest

from shortlist.data import sequences
from shortlist.errors import DataError


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "log.txt"
    path.write_text(content)
    return path


def histories(path: Path, **options: float) -> dict[str, list[str]]:
    log = sequences.load(path, **options).log()
    return {user: [log.item_ids[row] for row in log.history(u)] for u, user in enumerate(log.user_ids)}


def test_pairs_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    assert histories(write(tmp_path, "1 30\n2 10\n1 20\n1 30\n")) == {"1": ["30", "20", "30"], "2": ["10"]}


def test_lines_of_many_items_are_read_as_sequences(tmp_path: Path) -> None:
    assert histories(write(tmp_path, "1 30 20 30\n2 10\n3\t5  6\n")) == {
        "1": ["30", "20", "30"],
        "2": ["10"],
        "3": ["5", "6"],
    }


def test_the_two_forms_of_one_log_are_the_same_log(tmp_path: Path) -> None:
    pairs = histories(write(tmp_path, "1 3\n1 4\n2 3\n2 5\n2 4\n"))
    assert histories(write(tmp_path, "1 3 4\n2 3 5 4\n")) == pairs


def test_there_are_no_timestamps(tmp_path: Path) -> None:
    dataset = sequences.load(write(tmp_path, "1 3 4\n2 3 5 4\n"))
    assert not dataset.has_timestamps
    assert not dataset.log().has_timestamps


def test_ids_may_be_words(tmp_path: Path) -> None:
    assert histories(write(tmp_path, "anna B00X 0871\nbert 0871\ncarl B00X Q B00X\n"))["anna"] == ["B00X", "0871"]


def test_blank_lines_do_not_matter(tmp_path: Path) -> None:
    assert histories(write(tmp_path, "\n1 3 4\n\n2 5 6 7\n\n")) == {"1": ["3", "4"], "2": ["5", "6", "7"]}


def test_a_line_that_is_no_pair_is_rejected(tmp_path: Path) -> None:
    dataset = sequences.load(write(tmp_path, "1 2\n" * 30 + "1\n"))
    assert dataset.rejected.row(0) == ("log.txt", 31, "text", "1", "not two fields `user item`")
    assert len(dataset.interactions) == 30


def test_a_user_without_items_and_a_second_line_of_a_user_are_rejected(tmp_path: Path) -> None:
    dataset = sequences.load(write(tmp_path, "1 2 3\n2\n1 4 5\n3 2 4\n"), max_rejected=0.5)
    assert dataset.rejected.select("line", "reason").rows() == [
        (2, "a user without items"),
        (3, "the user has a line already"),
    ]
    assert len(dataset.interactions) == 4


def test_a_word_among_integer_ids_is_of_the_wrong_type(tmp_path: Path) -> None:
    content = "".join(f"{user} {user + 1}\n" for user in range(200)) + "7 x9\n"
    rejected = sequences.load(write(tmp_path, content)).rejected
    assert rejected.row(0) == ("log.txt", 201, "item", "x9", "item is not an integer, as the others are")


def test_a_file_of_commas_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1, column 'text', value '1,2,3'"):
        sequences.load(write(tmp_path, "1,2,3\n2,3,4\n"))


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"1 2\n\xff\n"])
def test_empty_and_binary_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"log\.txt"):
        sequences.load(path)


def test_a_long_file_is_read_whole(tmp_path: Path) -> None:
    content = "".join(f"{user} " + " ".join(str(user + item) for item in range(100)) + "\n" for user in range(1, 1001))
    dataset = sequences.load(write(tmp_path, content))
    assert (len(dataset.interactions), dataset.items.height, dataset.users.height) == (100_000, 1099, 1000)
