"""The stage models and the ensemble over them, in the same server as the cascade."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from shortlist.cascade import Cascade
from shortlist.serving.process import free_address
from shortlist.serving.supervisor import Supervisor
from shortlist.serving.tensors import CASCADE, ENSEMBLE, FILTER, RETRIEVE, STAGES, Model
from shortlist.types import Request, Slate

TYPES = {"BYTES": np.object_, "INT32": np.int32, "FP32": np.float32}


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Supervisor]:
    models = [model.name for model in (*STAGES, ENSEMBLE)]
    with Supervisor(repository, free_address(), models=models, instances=1) as supervisor:
        yield supervisor


@pytest.fixture(scope="module")
def connection(served: Supervisor) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address.grpc) as connected:
        yield connected


def test_every_stage_has_its_processes_and_none_is_taken_for_dead(served: Supervisor) -> None:
    served.check()
    assert served.reloads == 0
    assert {model.name: len(served.server.stubs(model.name, "1")) for model in STAGES} == {m.name: 1 for m in STAGES}


def infer(connection: Any, model: Model, tensors: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    inputs = []
    for spec in model.inputs:
        default = [[b""]] if spec.shape == (1,) else np.empty((1, 0))
        values = np.asarray(tensors.get(spec.name, default), TYPES[spec.dtype])
        inputs.append(triton.InferInput(spec.name, values.shape, spec.dtype).set_data_from_numpy(values))
    result = connection.infer(model.name, inputs, parameters=parameters or None)
    return {spec.name: result.as_numpy(spec.name) for spec in model.outputs}


def test_the_ensemble_answers_as_the_cascade(connection: Any, bundle: Path) -> None:
    cascade = Cascade.load(bundle)
    for user in (b"user-0", b"user-5", b"user-9"):
        slate = cascade.recommend([Request(user, history=(b"item-4", b"item-9"), k=7)])[0]
        assert isinstance(slate, Slate)
        answer = infer(connection, ENSEMBLE, {"user_id": [[user]], "history": [[b"item-4", b"item-9"]]}, k=7)
        assert answer["item_id"][0].tolist() == list(slate.item_ids)
        np.testing.assert_array_equal(answer["score"][0], slate.scores)


def test_retrieve_hands_on_candidates_best_first(connection: Any) -> None:
    found = infer(connection, RETRIEVE, {"user_id": [[b"user-0"]]})
    assert found["rows"].shape == found["scores"].shape == (1, 100)
    assert found["channels"].shape == (1, 100, 2)
    assert (np.diff(found["scores"][0]) <= 0).all()


def test_filter_keeps_a_part_of_its_candidates(connection: Any) -> None:
    person = {"user_id": [[b"user-0"]]}
    found = infer(connection, RETRIEVE, person)
    kept = infer(connection, FILTER, {**person, **found})
    assert kept["rows"].shape == (1, 40)
    assert set(kept["rows"][0]) <= set(found["rows"][0])


@pytest.mark.parametrize("row", [-1, 300, 2**31 - 1])
def test_rows_outside_the_catalogue_are_refused(connection: Any, row: int) -> None:
    person = {"user_id": [[b"user-0"]]}
    candidates = {"rows": [[0, row]], "scores": [[1.0, 0.5]], "channels": np.zeros((1, 2, 2))}
    with pytest.raises(InferenceServerException, match=r"rows = .*0 to 299 is allowed"):
        infer(connection, FILTER, {**person, **candidates})
    assert infer(connection, RETRIEVE, person)["rows"].shape == (1, 100)


def test_candidates_whose_shapes_disagree_are_refused(connection: Any) -> None:
    candidates = {"rows": [[0, 1]], "scores": [[1.0]], "channels": np.zeros((1, 2, 2))}
    with pytest.raises(InferenceServerException, match="rows, scores, channels = shapes"):
        infer(connection, FILTER, {"user_id": [[b"user-0"]], **candidates})


def test_no_candidates_give_no_slate(connection: Any) -> None:
    nothing = {"rows": np.empty((1, 0)), "scores": np.empty((1, 0)), "channels": np.empty((1, 0, 2))}
    assert infer(connection, STAGES[-1], nothing)["item_id"].shape == (1, 0)


def test_bad_parameters_are_refused_by_every_stage(connection: Any) -> None:
    for model in (*STAGES, ENSEMBLE):
        tensors = {"rows": [[0]], "scores": [[1.0]], "channels": np.zeros((1, 1, 2))}
        with pytest.raises(InferenceServerException, match="k = 0"):
            infer(connection, model, tensors, k=0)


def test_the_ensemble_takes_what_the_cascade_takes() -> None:
    assert ENSEMBLE.inputs == CASCADE.inputs
