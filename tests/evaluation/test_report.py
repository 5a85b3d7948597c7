"""The HTML report opens by itself and shows the numbers."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shortlist.evaluation.bootstrap import Interval
from shortlist.evaluation.report import Evaluation, flat, render, table
from shortlist.evaluation.slices import Slice

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects text and attributes, and checks that every tag is closed in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.text, self.sources, self.open = "", list[str](), list[str]()
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return Evaluation(
        protocol="rolling",
        examples=1234,
        users=56,
        models={
            "cascade": {"ndcg@10": 0.12345, "hr@10": 0.2, "coverage@10": 0.3},
            "<b>ease</b>": {"ndcg@10": 0.101, "hr@10": 0.25, "auc": 0.9},
        },
        stages={"retrieve": {"recall@200": 0.8765}, "filter": {"retention@10": 0.9912}},
        parity={"int8": {"overlap": 0.987}},
        reference="cascade",
        differences={"<b>ease</b>": {"ndcg@10": Interval(0.02245, 0.0111, 0.0333)}},
        slices={"history length": [Slice("0", 10, {"cascade": 0.1}), Slice("1–2", 20, {"cascade": 0.2})]},
        title="demo",
    )


@pytest.fixture(scope="module")
def page(evaluation: Evaluation) -> Page:
    return Page(render(evaluation))


def test_every_tag_is_closed(page: Page) -> None:
    assert page.open == []


@pytest.mark.parametrize(
    "number", ["0.1235", "0.2500", "0.8765", "0.9912", "0.987", "+0.0225 [+0.0111, +0.0333]", "1,234"]
)
def test_the_numbers_are_on_the_page(page: Page, number: str) -> None:
    assert number in page.text


def test_the_page_needs_nothing_from_outside(page: Page) -> None:
    assert page.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)


def test_names_are_text_and_never_markup(evaluation: Evaluation) -> None:
    assert "<b>ease" not in render(evaluation)


def test_a_metric_that_a_model_lacks_is_a_dash(page: Page) -> None:
    assert "–" in page.text


def test_an_evaluation_of_one_model_renders() -> None:
    alone = Evaluation("leave-one-out", 1, 1, {"popularity": {"ndcg@10": 0.5}}, reference="popularity")
    assert "0.5000" in Page(render(alone)).text


def test_the_best_of_each_column_is_marked() -> None:
    rows = table({"a": {"ndcg@10": 0.1}, "b": {"ndcg@10": 0.2}, "c": {}}, ("ndcg@10", "auc"))
    assert rows == {"columns": ["ndcg@10"], "rows": {"a": [(0.1, False)], "b": [(0.2, True)], "c": [(None, False)]}}


def test_nested_parity_becomes_dotted_rows() -> None:
    assert flat({"int8": {"overlap": 0.99}, "onnx": 1e-6}) == [("int8.overlap", 0.99), ("onnx", 1e-6)]


def test_json_and_html_are_written_under_the_protocols_name(evaluation: Evaluation, tmp_path: Path) -> None:
    as_json, as_html = evaluation.write(tmp_path / "evaluation")
    assert json.loads(as_json.read_text()) == evaluation.to_json()
    assert (as_json.name, as_html.name) == ("rolling.json", "rolling.html")
