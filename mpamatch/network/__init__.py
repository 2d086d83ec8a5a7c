"""Torch modules and functions: tensors in, tensors out. Only ``weights``, ``encoders`` and ``text`` read files."""
