from __future__ import annotations

from pathlib import Path

import pytest

from shortlist.data import movielens
from shortlist.errors import DataError

RATINGS = "userId,movieId,rating,timestamp\n" + "".join(
    f"{user},{movie},{1 + movie % 5},{1_000_000_000 + 1000 * movie + user}\n"
    for user in (1, 2)
    for movie in range(1, 11)
)
MOVIES = """movieId,title,genres
1,Toy Story (1995),Adventure|Animation
2,"American President, The (1995)",Comedy
3,Untitled,(no genres listed)
77,Never rated (2001) ,Drama
"""
TAGS = """userId,movieId,tag,timestamp
1,1,pixar,1000000500
2,1,"fun, really",1000000600
2,2,too late,1000009999
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ratings.csv").write_text(RATINGS)
    (tmp_path / "movies.csv").write_text(MOVIES)
    (tmp_path / "tags.csv").write_text(TAGS)
    return tmp_path


def test_ratings_are_events_with_a_value(folder: Path) -> None:
    dataset = movielens.load(folder)
    assert dataset.interactions.row(0) == ("1", "1", 1_000_001_001, "rating", 2.0)
    assert len(dataset.interactions) == 20


def test_titles_lose_their_year_which_becomes_an_attribute(folder: Path) -> None:
    items = movielens.load(folder).items
    assert items.select("title", "year").rows()[:4] == [
        ("Toy Story", 1995.0),
        ("American President, The", 1995.0),
        ("Untitled", None),
        ("Never rated", 2001.0),
    ]


def test_genres_are_several_or_none(folder: Path) -> None:
    assert movielens.load(folder).items["genres"].to_list()[:3] == [["Adventure", "Animation"], ["Comedy"], None]


def test_films_that_only_ratings_know_come_last(folder: Path) -> None:
    assert movielens.load(folder).items["item_id"].to_list()[:5] == ["1", "2", "3", "77", "4"]


def test_only_tags_older_than_most_ratings_are_used(folder: Path) -> None:
    assert movielens.load(folder).items["tags"].to_list()[:2] == ["pixar fun, really", None]


def test_movies_and_tags_may_be_absent(folder: Path) -> None:
    (folder / "movies.csv").unlink()
    (folder / "tags.csv").unlink()
    dataset = movielens.load(folder)
    assert dataset.item_attributes == {}
    assert dataset.items.height == 10


def test_the_older_dat_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    (tmp_path / "movies.dat").write_bytes("1193::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"))
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n")
    dataset = movielens.load(tmp_path)
    assert dataset.interactions.row(1) == ("1", "661", 978302109, "rating", 3.0)
    assert dataset.items.row(0) == ("1193", "Misérables, Les", 1995.0, ["Drama", "Musical"])
    assert dataset.users.row(0) == ("1", "1", "F", "10")


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ("x,1,3,1000000000", "userId", "userId is not an integer"),
        ("1,1.5,3,1000000000", "movieId", "movieId is not an integer"),
        (",1,3,1000000000", "userId", "userId is empty"),
        ("1,1,,1000000000", "rating", "rating is empty"),
        ("1,1,nan,1000000000", "rating", "rating is NaN"),
        ("1,1,inf,1000000000", "rating", "rating is infinite"),
        ("1,1,3,", "timestamp", "timestamp is empty"),
    ],
)
def test_a_bad_rating_is_rejected_with_its_reason(folder: Path, row: str, column: str, reason: str) -> None:
    (folder / "ratings.csv").write_text(RATINGS + row + "\n")
    rejected = movielens.load(folder).rejected
    assert rejected.select("file", "line", "column", "reason").rows() == [("ratings.csv", 22, column, reason)]


def test_a_film_listed_twice_keeps_its_first_line(folder: Path) -> None:
    (folder / "movies.csv").write_text(MOVIES + "1,Other (1999),Drama\n")
    dataset = movielens.load(folder, max_rejected=0.3)
    assert dataset.items["title"][0] == "Toy Story"
    assert dataset.rejected.row(0) == ("movies.csv", 6, "movieId", "1", "movieId is repeated")


def test_too_many_bad_ratings_fail_with_the_first(folder: Path) -> None:
    (folder / "ratings.csv").write_text(RATINGS + "1,1,3,never\n" * 10)
    with pytest.raises(DataError, match=r"10 of 30 rows \(33\.3%\).*line 22, column 'timestamp', value 'never'"):
        movielens.load(folder)


def test_a_missing_column_is_named(folder: Path) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,stars,timestamp\n1,1,3,1000000000\n")
    with pytest.raises(DataError, match="column 'rating' is missing"):
        movielens.load(folder)


def test_a_folder_without_ratings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither ratings\.csv nor ratings\.dat"):
        movielens.load(tmp_path)
