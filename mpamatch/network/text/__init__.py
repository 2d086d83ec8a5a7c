"""The text branch: what the classes of a run are called in words, as vectors (``docs/text.md``).

Importing this loads neither ``transformers`` nor ``open_clip``; the towers that need them do so when they are built.
"""

from mpamatch.network.text.class_texts import ClassTexts
from mpamatch.network.text.providers import build_class_texts

__all__ = ["ClassTexts", "build_class_texts"]
