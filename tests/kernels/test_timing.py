import time

from shortlist.kernels.timing import interleaved


def test_the_slower_case_has_the_larger_median() -> None:
    medians = interleaved({"fast": lambda: None, "slow": lambda: time.sleep(5e-3)}, rounds=3)
    assert medians["slow"] > medians["fast"]


def test_every_case_runs_in_every_round() -> None:
    calls = {"first": 0, "second": 0}

    def count(name: str) -> None:
        calls[name] += 1
        time.sleep(3e-3)  # longer than the slice: one call a round

    interleaved({name: lambda name=name: count(name) for name in calls}, rounds=4)
    assert calls == {"first": 6, "second": 6}  # one to warm up, one to choose the repeats, four rounds
