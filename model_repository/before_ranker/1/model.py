"""The Triton model `before_ranker` of a repository for a GPU. Everything is in shortlist.serving.gpu_stages."""

from shortlist.serving.gpu_stages import BeforeRankerModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
