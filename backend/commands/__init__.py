"""Command line of the backend: one module per command."""
