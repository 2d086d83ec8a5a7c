"""One verb per module: read rows, ask the domain, write rows, wake a worker."""
