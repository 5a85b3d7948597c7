"""The Triton model `cascade`: all four stages in one instance. Everything is in shortlist.serving.model."""

from shortlist.serving.model import CascadeModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
