"""Compute kernels of the request's path. They know nothing of stages, bundles or requests: arrays in, arrays out."""
