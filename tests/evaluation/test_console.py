"""What the terminal shows."""

import io
from pathlib import Path

from rich.console import Console

from shortlist.evaluation.bootstrap import Interval
from shortlist.evaluation.console import print_evaluation
from shortlist.evaluation.report import Evaluation


def test_models_differences_stages_and_paths_are_shown() -> None:
    evaluation = Evaluation(
        "rolling",
        100,
        10,
        {"cascade": {"ndcg@10": 0.1234}, "ease": {"ndcg@10": 0.1}},
        stages={"retrieve": {"recall@200": 0.7777}},
        reference="cascade",
        differences={"ease": {"ndcg@10": Interval(0.0234, 0.0111, 0.0333)}},
    )
    out = io.StringIO()
    print_evaluation(evaluation, [Path("runs/demo/evaluation/rolling.html")], Console(file=out, width=160))
    shown = out.getvalue()
    assert all(text in shown for text in ("0.1234", "+0.0234", "+0.0111 … +0.0333", "0.7777", "rolling.html"))
