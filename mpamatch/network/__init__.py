"""Torch modules and functions: tensors in, tensors out. Only ``weights`` and ``encoders`` read files."""
