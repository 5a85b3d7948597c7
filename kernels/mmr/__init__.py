"""Batched greedy maximal marginal relevance: the K of N candidates that are relevant and unlike each other."""

from shortlist.kernels.mmr.cpu import mmr, warm_up

__all__ = ["mmr", "warm_up"]
