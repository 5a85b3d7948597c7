"""The Triton model `after_ranker` of a repository for a GPU. Everything is in shortlist.serving.gpu_stages."""

from shortlist.serving.gpu_stages import AfterRankerModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
