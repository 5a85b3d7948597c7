"""The Triton model `rank`: the ranker's order of the candidates. Everything is in shortlist.serving.stage_models."""

from shortlist.serving.stage_models import RankModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
