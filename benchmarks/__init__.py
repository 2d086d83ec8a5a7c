"""Measured figures: one module for each that the docs quote."""
