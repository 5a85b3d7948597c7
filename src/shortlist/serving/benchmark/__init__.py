"""How fast a bundle is served, against the same stages in process and in other servers: `shortlist bench serving`."""
