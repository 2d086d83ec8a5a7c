"""Pixels on disk: images, masks and folders of them. Knows no torch, database or server."""
