"""Settings that every test shares."""

from hypothesis import settings

# Numba compiles on first use, which no per-example deadline survives.
settings.register_profile("shortlist", deadline=None, derandomize=True)
settings.load_profile("shortlist")
