"""Other ways to serve the same cascade, each as good as we could make it. They need the extra `peers`."""
