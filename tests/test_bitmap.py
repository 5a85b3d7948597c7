"""Sets of rows as bits."""

import numpy as np

from shortlist import bitmap


def test_rows_beyond_a_set_are_not_in_it() -> None:
    bits = np.frombuffer(b"\xff" * 64, np.uint8)[:8]  # what follows in memory is no part of it
    rows = np.array([0, 63, 64, 500, 2**31 - 1, -1], np.int32)
    assert bitmap.contains(bits, rows).tolist() == [True, True, False, False, False, False]
