"""The request format is a promise to every client: it changes here only on purpose."""

from shortlist.serving.tensors import INPUTS, OUTPUTS, PARAMETERS


def test_inputs_are_what_clients_were_promised() -> None:
    assert [(t.name, t.dtype, t.shape) for t in INPUTS] == [
        ("user_id", "BYTES", (1,)),
        ("history", "BYTES", (-1,)),
        ("exclude", "BYTES", (-1,)),
    ]


def test_outputs_are_what_clients_were_promised() -> None:
    assert [(t.name, t.dtype, t.shape) for t in OUTPUTS] == [
        ("item_id", "BYTES", (-1,)),
        ("score", "FP32", (-1,)),
        ("propensity", "FP32", (-1,)),
        ("status", "BYTES", (1,)),
        ("trace", "BYTES", (1,)),
    ]


def test_parameters_are_what_clients_were_promised() -> None:
    assert set(PARAMETERS) == {"k", "diversity", "context", "deadline_unix_us", "trace", "eligible", "traceparent"}
