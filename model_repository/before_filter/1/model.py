"""The Triton model `before_filter` of a repository for a GPU. Everything is in shortlist.serving.gpu_stages."""

from shortlist.serving.gpu_stages import BeforeFilterModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
