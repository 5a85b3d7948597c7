"""Compute kernels of the request's path. They know nothing of stages, bundles or requests: arrays in, arrays out."""

from shortlist.kernels.dpp import dpp
from shortlist.kernels.dpp import warm_up as _warm_up_dpp
from shortlist.kernels.fuse_features import fuse_features
from shortlist.kernels.fuse_features import warm_up as _warm_up_fuse_features
from shortlist.kernels.mmr import mmr
from shortlist.kernels.mmr import warm_up as _warm_up_mmr
from shortlist.kernels.top_k import top_k
from shortlist.kernels.top_k import warm_up as _warm_up_top_k

__all__ = ["dpp", "fuse_features", "mmr", "top_k", "warm_up"]


def warm_up() -> None:
    """Compile all kernels for the CPU, so that no request does."""
    for compile_one in (_warm_up_dpp, _warm_up_fuse_features, _warm_up_mmr, _warm_up_top_k):
        compile_one()
