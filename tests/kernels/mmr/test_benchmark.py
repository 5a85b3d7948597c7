"""The benchmark compares like with like."""

import numpy as np

from shortlist.kernels.mmr.benchmark import cases


def test_all_rivals_pick_the_same_items() -> None:
    picks = {name: np.array(case()) for name, case in cases().items()}
    assert np.array_equal(picks["shortlist"], picks["numpy"])
    assert np.array_equal(picks["shortlist"], picks["pyversity"])
