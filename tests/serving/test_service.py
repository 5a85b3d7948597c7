"""The served cascade through gRPC: answers, refusals, isolation, metrics, closed doors."""

import json
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from shortlist.cascade import Cascade
from shortlist.errors import DeadlineError, RequestError
from shortlist.serving.client import Client
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tensors import INPUTS
from shortlist.types import Request, Slate
from tests.serving.bad_requests import BAD_CONTEXTS, BAD_IDS, BAD_PARAMETERS
from tests.serving.stand_in import seconds_until

Plain = Callable[..., Any]


@pytest.fixture
def plain(served: Supervisor) -> Plain:
    """A request through NVIDIA's own client, with any tensors and parameters."""
    connection = triton.InferenceServerClient(served.address.grpc)

    def infer(parameters: dict[str, Any] | None = None, **tensors: list[bytes]) -> Any:
        inputs = []
        for spec in INPUTS:
            values = tensors.get(spec.name, [b""] if spec.shape == (1,) else [])
            tensor = triton.InferInput(spec.name, [1, len(values)], "BYTES")
            inputs.append(tensor.set_data_from_numpy(np.array([values], np.object_)))
        return connection.infer("cascade", inputs, parameters=parameters)

    yield infer
    connection.close()


def served_as(message: str) -> Any:
    return pytest.raises(InferenceServerException, match=message)


def test_a_known_user_gets_a_full_slate(client: Client) -> None:
    answer = client.recommend("user-0")
    assert answer.status == "full"
    assert len(answer) == len(set(answer.ids)) == 10


def test_the_answer_is_the_one_of_the_cascade_in_process(client: Client, bundle: Path) -> None:
    cascade = Cascade.load(bundle)
    users = [f"user-{u}" for u in range(40)] + ["nobody", ""]
    for user in users:
        here = cascade.recommend([Request(user.encode(), k=20)])[0]
        there = client.recommend(user, k=20)
        assert isinstance(here, Slate)
        assert [i.encode() for i in there.ids] == list(here.item_ids)
        np.testing.assert_array_equal(np.array([i.score for i in there], np.float32), here.scores)


@pytest.mark.parametrize("user", ["nobody-knows-me", "", "üser\n"])
def test_a_stranger_is_answered(client: Client, user: str) -> None:
    assert len(client.recommend(user)) == 10


@pytest.mark.parametrize("k", [1, 10, 50])
def test_k_items_come_back(client: Client, k: int) -> None:
    assert len(client.recommend("user-0", k=k)) == k


def test_a_given_history_replaces_the_stored_one(client: Client) -> None:
    given = client.recommend("user-0", history=["item-1", "item-2"])
    stranger = client.recommend("nobody", history=["item-1", "item-2"])
    assert given.ids != client.recommend("user-0").ids
    assert len(stranger) == 10


def test_excluded_items_never_come_back(client: Client) -> None:
    banned = client.recommend("user-0").ids
    assert not set(banned) & set(client.recommend("user-0", exclude=banned).ids)


def test_excluding_the_whole_catalogue_gives_an_empty_slate(client: Client) -> None:
    assert client.recommend("user-0", exclude=[f"item-{i}" for i in range(300)]).ids == []


def test_the_longest_allowed_lists_are_answered(client: Client) -> None:
    assert len(client.recommend("user-0", history=["item-1"] * 10_000, exclude=["unknown"] * 10_000)) == 10


def test_a_trace_explains_every_item(client: Client) -> None:
    answer = client.recommend("user-0", trace=True)
    assert answer.trace is not None
    assert [item["id"] for item in answer.trace["items"]] == answer.ids
    assert [stage["stage"] for stage in answer.trace["stages"]] == ["users", "retrieve", "filter", "rank", "diversify"]


def test_without_asking_there_is_no_trace(client: Client) -> None:
    assert client.recommend("user-0").trace is None


def test_a_context_is_taken(client: Client) -> None:
    assert len(client.recommend("user-0", context={"hour": 3, "device": "phone"})) == 10


def test_a_generous_deadline_changes_nothing(client: Client) -> None:
    assert client.recommend("user-0", deadline_ms=60_000).status == "full"


def test_a_passed_deadline_is_refused_at_once(client: Client) -> None:
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        with pytest.raises(DeadlineError, match=r"deadline_unix_us = \d+ passed"):
            client.recommend("user-0", deadline_ms=-1000)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.5  # a machine may be busy now and then


def test_a_plain_tritonclient_works(plain: Plain) -> None:
    result = plain({"k": 3, "diversity": "0.5"}, user_id=[b"user-0"])
    assert result.as_numpy("item_id").shape == (1, 3)
    assert result.as_numpy("score").dtype == np.float32
    assert result.as_numpy("propensity").tolist() == [[1.0, 1.0, 1.0]]
    assert result.as_numpy("status").tolist() == [[b"full"]]
    assert result.as_numpy("trace").tolist() == [[b""]]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS)
def test_a_bad_parameter_is_refused_and_a_good_request_works_after(
    plain: Plain, client: Client, name: str, value: Any, allowed: str
) -> None:
    with served_as(f"{name} = .*{allowed}") as refused:
        plain({name: value})
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert len(client.recommend("user-0")) == 10


@pytest.mark.parametrize(("name", "values", "allowed"), BAD_IDS.values(), ids=BAD_IDS)
def test_bad_ids_are_refused_and_a_good_request_works_after(
    plain: Plain, client: Client, name: str, values: list[bytes], allowed: str
) -> None:
    with served_as(f"{name} = .*{allowed}"):
        plain(**{name: values})
    assert len(client.recommend("user-0")) == 10


@pytest.mark.parametrize(("field", "context"), BAD_CONTEXTS.values(), ids=BAD_CONTEXTS)
def test_a_context_that_does_not_fit_is_refused_and_a_good_request_works_after(
    client: Client, field: str, context: dict[str, Any]
) -> None:
    with pytest.raises(RequestError, match=f"^{field} = .*allowed"):
        client.recommend("user-0", context=context)
    assert len(client.recommend("user-0")) == 10


@pytest.mark.parametrize("shape", [[1, 0], [1, 2], [1]], ids=str)
def test_a_user_id_of_another_shape_is_refused_and_a_good_request_works_after(
    plain: Plain, client: Client, served: Supervisor, shape: list[int]
) -> None:
    with triton.InferenceServerClient(served.address.grpc) as connection:
        user = triton.InferInput("user_id", shape, "BYTES").set_data_from_numpy(np.full(shape, b"u", np.object_))
        empty = [triton.InferInput(n, [1, 0], "BYTES") for n in ("history", "exclude")]
        for tensor in empty:
            tensor.set_data_from_numpy(np.empty((1, 0), np.object_))
        with served_as("user_id"):
            connection.infer("cascade", [user, *empty])
    assert len(client.recommend("user-0")) == 10


def test_two_people_in_one_request_are_refused_and_a_good_request_works_after(
    client: Client, served: Supervisor
) -> None:
    with triton.InferenceServerClient(served.address.grpc) as connection:
        inputs = [triton.InferInput(s.name, [2, 1], "BYTES") for s in INPUTS]
        for tensor in inputs:
            tensor.set_data_from_numpy(np.full((2, 1), b"item-1", np.object_))
        with served_as("user_id = .*one person a request"):
            connection.infer("cascade", inputs)
    assert len(client.recommend("user-0")) == 10


def test_a_missing_tensor_is_named(client: Client, served: Supervisor) -> None:
    with triton.InferenceServerClient(served.address.grpc) as connection:
        user = triton.InferInput("user_id", [1, 1], "BYTES").set_data_from_numpy(np.full((1, 1), b"u", np.object_))
        with served_as("missing required input.*history"):
            connection.infer("cascade", [user])
    assert len(client.recommend("user-0")) == 10


def test_a_tensor_of_another_type_is_named(client: Client, served: Supervisor) -> None:
    with triton.InferenceServerClient(served.address.grpc) as connection:
        inputs = [triton.InferInput(s.name, [1, 1], "FP32") for s in INPUTS]
        for tensor in inputs:
            tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
        with served_as("data-type is 'FP32', but model 'cascade' expects 'BYTES'"):
            connection.infer("cascade", inputs)
    assert len(client.recommend("user-0")) == 10


def test_bad_requests_do_not_fail_the_others_of_their_batch(client: Client) -> None:
    def ask(i: int) -> str:
        try:
            return client.recommend(f"user-{i % 40}", k=0 if i % 3 == 0 else 5, context={"hour": 1}).status
        except RequestError as error:
            return str(error).split(" ")[0]

    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(ask, range(300)))
    assert outcomes == ["k" if i % 3 == 0 else "full" for i in range(300)]


def test_concurrent_answers_are_those_of_one_at_a_time(client: Client) -> None:
    def ask(i: int) -> list[str]:
        return client.recommend(f"user-{i % 40}", k=1 + i % 50, history=["item-3"] * (i % 5), exclude=["item-7"]).ids

    alone = [ask(i) for i in range(100)]
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(100))) == alone


def test_metrics_count_stages_requests_cold_starts_and_errors(client: Client, served: Supervisor) -> None:
    before = flushed(served)
    for _ in range(3):
        client.recommend("user-0")
        client.recommend("nobody")
        with pytest.raises(RequestError):
            client.recommend("user-0", k=99)
    after = flushed(served)
    gained = {name: after[name] - before.get(name, 0) for name in after}
    assert gained['shortlist_requests_total{status="full"}'] == 6
    assert gained["shortlist_cold_start_total"] == 3
    assert gained['shortlist_errors_total{field="k"}'] == 3
    assert gained['shortlist_stage_duration_seconds_count{stage="rank"}'] == 3
    assert gained['shortlist_stage_duration_seconds_bucket{le="+Inf",stage="rank"}'] == 3
    assert gained['shortlist_candidates_in_total{stage="filter"}'] == 300
    assert gained['shortlist_candidates_out_total{stage="filter"}'] == 120


def test_a_passed_deadline_is_counted(client: Client, served: Supervisor) -> None:
    name = 'shortlist_errors_total{field="deadline_unix_us"}'
    before = flushed(served).get(name, 0)
    with pytest.raises(DeadlineError):
        client.recommend("user-0", deadline_ms=-1)
    assert flushed(served)[name] == before + 1


def test_the_canary_is_not_counted(served: Supervisor) -> None:
    before = counted(flushed(served))
    answered = canaries(metrics(served))
    seconds_until(lambda: canaries(metrics(served)) >= answered + 2)
    assert counted(flushed(served)) == before


def canaries(found: dict[str, float]) -> float:
    """Requests that the cascade answered: while nobody asks, the supervisor's."""
    return sum(v for k, v in found.items() if k.startswith("nv_inference_request_success") and '"cascade"' in k)


def counted(found: dict[str, float]) -> dict[str, float]:
    """Our own metrics of answers: not those of the processes, which change by themselves, nor what `flushed` adds."""
    own = ("shortlist_requests", "shortlist_stage", "shortlist_candidates", "shortlist_cold", "shortlist_answers")
    return {name: value for name, value in found.items() if name.startswith(own)}


def metrics(served: Supervisor) -> dict[str, float]:
    """The metrics as they are."""
    with urllib.request.urlopen(served.address.metrics, timeout=60) as page:
        lines = page.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def flushed(served: Supervisor) -> dict[str, float]:
    """The metrics, once everything counted so far has been handed over.

    What an instance hands over becomes visible bit by bit. So two refusals are counted, one after the other: when the
    second is there, all that was handed over with the first is.
    """
    refusals = 'shortlist_errors_total{field="diversity"}'
    with Client(served.address.grpc, timeout=60) as client:
        for _ in range(2):
            before = metrics(served).get(refusals, 0)
            with pytest.raises(RequestError):
                client.recommend("user-0", diversity=2.0)
            seconds_until(lambda before=before: metrics(served).get(refusals, 0) > before)  # type: ignore[misc]
    return metrics(served)


@pytest.mark.parametrize(
    "act",
    [
        lambda c: c.load_model("cascade"),
        lambda c: c.unload_model("cascade"),
        lambda c: c.get_model_repository_index(),
        lambda c: c.register_system_shared_memory("mine", "/anything", 16),
        lambda c: c.update_log_settings({"log_verbose_level": 1}),
        lambda c: c.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}),
    ],
    ids=["load", "unload", "index", "shared memory", "logging", "tracing"],
)
def test_strangers_control_nothing(served: Supervisor, act: Callable[[Any], object]) -> None:
    with (
        triton.InferenceServerClient(served.address.grpc) as connection,
        pytest.raises(InferenceServerException, match="restricted"),
    ):
        act(connection)


def test_a_malformed_message_is_refused_and_a_good_request_works_after(client: Client, served: Supervisor) -> None:
    with grpc.insecure_channel(served.address.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            call(b"\xff" * 100, timeout=60)
    assert len(client.recommend("user-0")) == 10


def test_context_reaches_the_cascade_as_json(plain: Plain) -> None:
    assert plain({"context": json.dumps({"hour": 3})}, user_id=[b"user-0"]).as_numpy("item_id").shape == (1, 10)
