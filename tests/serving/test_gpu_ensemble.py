"""The ensemble of a GPU repository in a real Triton. There is no GPU, so the plans' graphs run on ONNX Runtime."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from shortlist.cascade import Cascade
from shortlist.export.emulate import emulated
from shortlist.serving.gpu_models import PLANS, STEPS
from shortlist.serving.plans import parse_precisions
from shortlist.serving.process import free_address
from shortlist.serving.repository import GpuOptions, build_repository
from shortlist.serving.supervisor import Supervisor
from shortlist.types import Request, Slate

STAND_IN = """
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        graph = Path(args["model_repository"], args["model_version"], "emulated.onnx")
        self.session = ort.InferenceSession(str(graph), providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        given = {}
        for wanted in self.session.get_inputs():
            values = pb_utils.get_input_tensor_by_name(request, wanted.name).as_numpy()
            given[wanted.name] = values.astype(np.float32) if values.dtype == np.float16 else values
        return pb_utils.InferenceResponse([pb_utils.Tensor("score", self.session.run(None, given)[0])])
"""


@pytest.fixture(scope="module")
def connection(planted_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[triton.InferenceServerClient]:
    out = tmp_path_factory.mktemp("gpu") / "out"
    options = GpuOptions(parse_precisions([]), None)
    build_repository(planted_run / "bundle", out, "gpu", gpu=options)
    for name in PLANS:
        version, config = out / name / "1", out / name / "config.pbtxt"
        (version / "emulated.onnx").write_bytes(emulated((version / "model.onnx").read_bytes()))
        (version / "model.py").write_text(STAND_IN)
        of_gpus = ("profile", "filename", "gpus:")
        kept = [line for line in config.read_text().splitlines() if not any(word in line for word in of_gpus)]
        text = "\n".join(kept).replace('platform: "tensorrt_plan"', 'backend: "python"').replace("KIND_GPU", "KIND_CPU")
        config.write_text(text)
    with (
        Supervisor(out, free_address(), models=[*STEPS, "stages"], instances=1) as supervisor,
        triton.InferenceServerClient(supervisor.address.grpc) as connected,
    ):
        yield connected


def ask(connection: triton.InferenceServerClient, user: bytes, **parameters: float) -> tuple[list[bytes], np.ndarray]:
    inputs = []
    for name, values in {"user_id": [[user]], "history": np.empty((1, 0)), "exclude": np.empty((1, 0))}.items():
        array = np.asarray(values, np.object_)
        inputs.append(triton.InferInput(name, array.shape, "BYTES").set_data_from_numpy(array))
    result = connection.infer("stages", inputs, parameters=parameters or None)
    return result.as_numpy("item_id")[0].tolist(), result.as_numpy("score")[0]


def test_it_answers_as_the_cascade(connection: triton.InferenceServerClient, planted_run: Path) -> None:
    cascade = Cascade.load(planted_run / "bundle")
    shared = []
    for number in range(0, 200, 10):
        user = f"user{number}".encode()
        slate = cascade.recommend([Request(user, k=10, diversity=0.0)])[0]
        assert isinstance(slate, Slate)
        items, _ = ask(connection, user, k=10, diversity=0.0)
        shared.append(len(set(items) & set(slate.item_ids)) / 10)
    assert np.mean(shared) >= 0.98


def test_a_longer_slate_than_the_usual_depth_fits_the_larger_bucket(connection: triton.InferenceServerClient) -> None:
    items, scores = ask(connection, b"user0", k=50)
    assert len(set(items)) == 50
    assert np.isfinite(scores).all()


def test_bad_parameters_are_refused(connection: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="k = 0"):
        ask(connection, b"user0", k=0)


def test_rows_outside_the_catalogue_are_refused(connection: triton.InferenceServerClient) -> None:
    inputs = [triton.InferInput("rows", [1, 2], "INT32"), triton.InferInput("ranker_score", [1, 2], "FP32")]
    inputs[0].set_data_from_numpy(np.array([[0, 10**6]], np.int32))
    inputs[1].set_data_from_numpy(np.zeros((1, 2), np.float32))
    with pytest.raises(InferenceServerException, match="rows = 0 to 1000000: -1 to 119 is allowed"):
        connection.infer("after_ranker", inputs)
