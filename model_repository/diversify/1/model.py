"""The Triton model `diversify`: from ranked candidates to a slate. Everything is in shortlist.serving.stage_models."""

from shortlist.serving.stage_models import DiversifyModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
