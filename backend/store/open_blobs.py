"""The blobs of an installation, wherever its settings keep them; the one place that decides it."""

from __future__ import annotations

from backend.settings import Settings
from backend.store.blob_cache import BlobCache
from backend.store.blobs import BlobFolder, BlobStore


def open_blobs(settings: Settings) -> BlobStore:
    """A folder, or a bucket with a cache in the state folder. Nothing is read yet. Raises BadInput for half a key."""
    if not settings.blobs_in_bucket:
        return BlobFolder(settings.blobs_folder)
    from backend.store.blob_bucket import BlobBucket  # a folder needs no client

    assert settings.blobs_url is not None
    key_id, secret = settings.blobs_key_id, settings.blobs_secret
    return BlobBucket.open(
        settings.blobs_url,
        BlobCache(settings.state / "cache" / "blobs", settings.blobs_cache_mb * 1024**2),
        endpoint=settings.blobs_endpoint,
        region=settings.blobs_region,
        key_id=None if key_id is None else key_id.get_secret_value(),
        secret=None if secret is None else secret.get_secret_value(),
        timeout_s=settings.blobs_timeout_s,
    )
