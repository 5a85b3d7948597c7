"""Load on a running server: Locust users, workloads and their report, and what happens beyond saturation."""
