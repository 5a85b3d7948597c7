"""ONNX Runtime sessions, opened the way that serves best beside a busy server: one thread, no spinning."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as refusals

from shortlist.errors import BundleError

REFUSALS = (
    RuntimeError,
    ValueError,
    refusals.Fail,
    refusals.InvalidArgument,
    refusals.InvalidGraph,
    refusals.InvalidProtobuf,
    refusals.NotImplemented,
)


def open_session(graph: Path) -> ort.InferenceSession:
    """A CPU session for `graph`. Raises BundleError when ONNX Runtime refuses the file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except REFUSALS as error:
        raise BundleError(f"{graph}: ONNX Runtime cannot load it: {error}") from error
