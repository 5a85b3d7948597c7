"""Whether this machine can run the stages on a GPU, asked of those who would have to do it.

A package that is installed proves nothing: onnxruntime-gpu lists CUDA and faiss-gpu imports on machines without a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shortlist.kernels.arrays import why_no_gpu


def what_is_missing(engines: Path | None, gpus: Sequence[int] = (0,)) -> str:
    """What keeps `gpus` from being used here, in one line; empty where nothing does."""
    if reason := why_no_gpu():
        return reason
    faiss = _module("faiss")
    if not hasattr(faiss, "StandardGpuResources"):
        return "the installed FAISS is for the CPU: pip install faiss-gpu-cu12 (or a build with cuVS) in its place"
    count = faiss.get_num_gpus()
    if count < 1:
        return "the installed FAISS sees no GPU although CUDA does: its build may be for another CUDA version"
    if max(gpus) >= count:
        numbers = ",".join(map(str, gpus))
        return f"gpus = {numbers}: the {count} of this machine are numbered from 0; export with other --gpus"
    if _module("tensorrt") is None:
        return "TensorRT is not installed: it runs the models; pip install tensorrt, or use NVIDIA's Triton image"
    if engines is None or not engines.is_dir():
        return (
            f"engines = {engines}: no such folder of TensorRT plans; build them: shortlist export BUNDLE --target gpu"
        )
    return ""


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
