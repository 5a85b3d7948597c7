from __future__ import annotations

from pathlib import Path

import pytest

from shortlist.data import recbole
from shortlist.data.validate import count_reasons
from shortlist.errors import DataError

INTER = """user_id:token\titem_id:token\trating:float\ttimestamp:float
u1\ti1\t3\t881250949
u2\ti2\t4.5\t891717742.0
u1\ti3\t1\t878887116
"""
ITEM = """item_id:token\tmovie_title:token_seq\tcolour:token\tclass:token_seq\tprice:float\tvector:float_seq
i1\t"Quoted" film\tred\tWar Drama\t1.5\t0.1 0.2
i2\t\tblue\t\tcheap\t0.3
i9\tNever seen\tred\tWar\t\t
"""
USER = """user_id:token\tage:float
u1\t24
u2\t
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for suffix, content in (("inter", INTER), ("item", ITEM), ("user", USER)):
        (tmp_path / f"set.{suffix}").write_text(content)
    return tmp_path


def test_interactions_carry_rating_and_whole_seconds(folder: Path) -> None:
    assert recbole.load(folder, max_rejected=1).interactions.rows() == [
        ("u1", "i1", 881250949, "rating", 3.0),
        ("u2", "i2", 891717742, "rating", 4.5),
        ("u1", "i3", 878887116, "rating", 1.0),
    ]


def test_field_types_decide_how_attributes_are_read(folder: Path) -> None:
    dataset = recbole.load(folder, max_rejected=1)
    assert dataset.item_attributes == {
        "movie_title": "text",
        "colour": "category",
        "class": "multi",
        "price": "numeric",
        "vector_0": "numeric",
        "vector_1": "numeric",
    }
    assert dataset.items.row(0) == ("i1", '"Quoted" film', "red", ["War", "Drama"], 1.5, 0.1, 0.2)
    assert dataset.items.row(1) == ("i2", None, "blue", None, None, 0.3, None)
    assert dataset.title == "movie_title"


def test_items_without_interactions_stay_and_unlisted_ones_join(folder: Path) -> None:
    assert recbole.load(folder, max_rejected=1).items["item_id"].to_list() == ["i1", "i2", "i9", "i3"]


def test_a_number_that_is_none_becomes_missing_and_is_counted(folder: Path) -> None:
    assert count_reasons(recbole.load(folder, max_rejected=1).rejected) == {"price is not a number; read as missing": 1}


def test_item_and_user_files_may_be_absent(folder: Path) -> None:
    (folder / "set.item").unlink()
    (folder / "set.user").unlink()
    dataset = recbole.load(folder / "set.inter")
    assert dataset.items.columns == ["item_id"]
    assert dataset.users["user_id"].to_list() == ["u1", "u2"]


def test_time_and_rating_may_be_absent(tmp_path: Path) -> None:
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\nu\ti\n")
    assert recbole.load(tmp_path).interactions.row(0) == ("u", "i", None, "interaction", None)


def test_many_different_words_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\nu\ti0\n")
    rows = "".join(f"i{n}\tword{n} other{n}\n" for n in range(recbole.MULTI_LIMIT))
    (tmp_path / "a.item").write_text("item_id:token\tabout:token_seq\n" + rows)
    assert recbole.load(tmp_path).item_attributes == {"about": "text"}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("user_id\titem_id:token", "field 'user_id' is not `name:type`; allowed types: token"),
        ("user_id:int\titem_id:token", "field 'user_id:int' is not `name:type`"),
        ("user_id:float\titem_id:token", "field user_id:float is of the wrong type"),
        ("user_id:token\tthing:token", "column 'item_id' is missing"),
    ],
)
def test_a_wrong_header_is_refused_with_its_field(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "a.inter").write_text(f"{header}\n1\t2\n")
    with pytest.raises(DataError, match=message) as caught:
        recbole.load(tmp_path)
    assert "a.inter: line 1" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("\ti1\t3\t881250949", "user_id is empty"),
        ("u1\tnan\t3\t881250949", "item_id is empty"),
        ("u1\ti1\tNaN\t881250949", "rating is NaN"),
        ("u1\ti1\tgood\t881250949", "rating is not a number"),
        ("u1\ti1\t3\tyesterday", "timestamp is not a time"),
        ("u1\ti1\t3\t-5", "timestamp is outside 1970..2100"),
        ("u1\ti1\t3", "timestamp is empty"),
        ("u1\ti1\t3\t881250949\tmore", "more fields than the header has"),
    ],
)
def test_a_bad_row_is_rejected_with_line_and_reason(tmp_path: Path, row: str, reason: str) -> None:
    (tmp_path / "a.inter").write_text(INTER + row + "\n")
    dataset = recbole.load(tmp_path, max_rejected=0.5)
    assert len(dataset.interactions) == 3
    assert dataset.rejected.select("file", "line", "reason").rows() == [("a.inter", 5, reason)]


def test_two_logs_in_a_folder_are_refused(folder: Path) -> None:
    (folder / "other.inter").write_text(INTER)
    with pytest.raises(DataError, match=r"found: other\.inter, set\.inter"):
        recbole.load(folder)
