"""Plots are complete pictures of what they were given."""

import base64

from shortlist.evaluation.bootstrap import Interval
from shortlist.evaluation.plots import bars_by_group, forest
from shortlist.evaluation.slices import Slice


def svg(uri: str) -> str:
    return base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()


def test_bars_name_every_group_and_model() -> None:
    picture = svg(bars_by_group([Slice("11–20", 321, {"cascade": 0.1, "ease": 0.2})], "history length", "NDCG@10"))
    assert all(text in picture for text in ("<!-- 11–20 -->", "n=321", "<!-- cascade -->", "<!-- ease -->"))


def test_a_forest_has_a_line_for_each_difference() -> None:
    differences = {"ease": {"ndcg@10": Interval(0.1, 0.0, 0.2)}, "als": {"ndcg@10": Interval(-0.1, -0.2, -0.05)}}
    picture = svg(forest("cascade", differences, "ndcg@10"))
    assert "cascade − ease" in picture
    assert "cascade − als" in picture


def test_no_differences_give_no_picture() -> None:
    assert forest("cascade", {}, "ndcg@10") == ""
