"""Encoders: records as data, the modules they build, and where their weights come from.

A new encoder is a new record, here or in an installed package (see ``catalogue``).
"""

from mpamatch.network.encoders.build import build_encoder
from mpamatch.network.encoders.catalogue import ENCODERS, added_encoders, encoder_record
from mpamatch.network.encoders.records import EncoderRecord, WeightSource, with_options

__all__ = [
    "ENCODERS",
    "EncoderRecord",
    "WeightSource",
    "added_encoders",
    "build_encoder",
    "encoder_record",
    "with_options",
]
