"""The bodies of the jobs: plain functions with everything passed in."""
