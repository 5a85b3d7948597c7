"""The Triton model `filter`: the student's best of the candidates. Everything is in shortlist.serving.stage_models."""

from shortlist.serving.stage_models import FilterModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
