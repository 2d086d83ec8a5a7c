"""The real Label Studio, one for all tests of the backend: it takes half a minute to come up."""

from tests.label_studio_server import real_label_studio

__all__ = ["real_label_studio"]
