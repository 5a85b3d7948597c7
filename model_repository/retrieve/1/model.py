"""The Triton model `retrieve`: from a person to candidates. Everything is in shortlist.serving.stage_models."""

from shortlist.serving.stage_models import RetrieveModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
