"""The requests of a load test: who sends them, in which shares, and which of them are wrong."""

from collections import Counter

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from shortlist.errors import RequestError
from shortlist.loadtest.profiles import BAD, COLD_USER, EMPTY_HISTORY, LONG, LONG_HISTORY, SHARES, ZIPF_USER, Profiles
from shortlist.loadtest.workloads import WORKLOADS
from shortlist.serving.parse import parse_request
from shortlist.types import Request
from tests.factories import make_bundle


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Profiles:
    return Profiles(make_bundle(tmp_path_factory.mktemp("profiles") / "bundle"), seed=3)


def parsed(message: bytes) -> Request:
    """As the server reads it."""
    sent = service_pb2.ModelInferRequest.FromString(message)
    tensors = []
    for tensor, content in zip(sent.inputs, sent.raw_input_contents, strict=True):
        values, start = [], 0
        while start < len(content):
            stop = start + 4 + int.from_bytes(content[start : start + 4], "little")
            values.append(content[start + 4 : stop])
            start = stop
        if tensor.shape[1] != len(values):
            raise RequestError("shape")
        tensors.append(np.array(values, object).reshape(1, -1))
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in sent.parameters.items()}
    text = ", ".join(f'"{n}": {str(getattr(sent.parameters[n], k)).replace("nan", "NaN")}' for n, k in kinds.items())
    return parse_request(*tensors, "{" + text.replace("{}", '"{}"') + "}")


def test_a_request_is_a_function_of_seed_and_number(profiles: Profiles) -> None:
    assert [profiles.request(n) for n in range(50)] == [profiles.request(n) for n in range(50)]
    assert len({profiles.request(n).message for n in range(50)}) > 20  # the most active come often


def test_profiles_come_in_their_shares(profiles: Profiles) -> None:
    seen = Counter(profiles.request(n).profile for n in range(2000))
    assert {profile: pytest.approx(seen[profile] / 2000, abs=0.03) for profile in SHARES} == SHARES


def test_only_bad_requests_are_refused(profiles: Profiles) -> None:
    for sent in map(profiles.request, range(300)):
        if sent.profile == BAD:
            with pytest.raises(RequestError):
                parsed(sent.message)
        else:
            parsed(sent.message)


def test_histories_are_as_their_profile_says(profiles: Profiles) -> None:
    requests = [(s.profile, parsed(s.message)) for s in map(profiles.request, range(300)) if s.profile != BAD]
    lengths = {p: [len(r.history) for profile, r in requests if profile == p] for p in SHARES}
    assert min(lengths[LONG_HISTORY]) >= LONG[0]
    assert {*lengths[ZIPF_USER], *lengths[EMPTY_HISTORY]} == {0}
    assert all(r.user_id == b"" for profile, r in requests if profile == EMPTY_HISTORY)
    assert all(r.user_id.startswith(b"never seen") for profile, r in requests if profile == COLD_USER)


def test_few_users_send_most_requests(profiles: Profiles) -> None:
    users = [parsed(s.message).user_id for s in map(profiles.request, range(1000)) if s.profile == ZIPF_USER]
    (_, most), *_ = Counter(users).most_common()
    assert most > 3 * len(users) / 40


def test_deadlines_count_from_now(profiles: Profiles) -> None:
    number = next(n for n in range(100) if profiles.request(n).profile == ZIPF_USER)
    assert parsed(profiles.request(number, 50, 1_000_000).message).deadline_unix_us == 1_050_000


@pytest.mark.parametrize("workload", list(WORKLOADS))
def test_a_workload_has_users_from_the_first_moment_to_the_last(workload: str) -> None:
    users = [WORKLOADS[workload](done / 100, 40) for done in range(100)]
    assert min(users) >= 1
    assert max(users) <= 40


def test_a_spike_comes_and_goes() -> None:
    assert [WORKLOADS["spike"](done, 40) for done in (0.1, 0.5, 0.9)] == [5, 40, 5]


def test_a_ramp_only_rises() -> None:
    users = [WORKLOADS["ramp"](done / 100, 40) for done in range(100)]
    assert users == sorted(users)
    assert users[-1] == 40
