"""Blobs in a bucket of an S3 server: the same promises as the folder's, kept by conditional writes.

An object is whole or absent by the protocol, and its upload is refused unless its SHA-256 is what we sent. A blob that
is there is not written again, so that two writers of the same bytes cannot disturb each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from backend.store.blob_cache import BlobCache
from backend.store.blobs import BlobEntry, damaged, require_digest
from mpamatch.errors import BadInput, NotFound, Unavailable

if TYPE_CHECKING:
    from obstore import ObjectMeta

Answer = TypeVar("Answer")
_RETRIES = 5


class BlobBucket:
    """A content-addressed bucket, under a prefix: ``PREFIX/ab/abcdef...``."""

    def __init__(self, url: str, store: S3Store, cache: BlobCache) -> None:
        self._url = url
        self._store = store
        self._cache = cache

    @classmethod
    def open(
        cls,
        url: str,
        cache: BlobCache,
        *,
        endpoint: str | None = None,
        region: str = "us-east-1",
        key_id: str | None = None,
        secret: str | None = None,
        timeout_s: float = 30.0,
    ) -> BlobBucket:
        """``url`` is s3://BUCKET/PREFIX. Nothing is asked of the server yet. Raises BadInput for half a key."""
        if (key_id is None) != (secret is None):
            raise BadInput("setting blobs_key_id", "needs blobs_secret, and the other way round", "give both or none")
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        config: dict[str, Any] = {"region": region, "conditional_put": "etag", "checksum_algorithm": "SHA256"}
        if endpoint is not None:
            config["endpoint"] = endpoint
        if key_id is not None:
            config |= {"access_key_id": key_id, "secret_access_key": secret}
        limit = timedelta(seconds=timeout_s)
        store = S3Store(
            bucket,
            prefix=prefix.strip("/") or None,
            client_options={
                "allow_http": endpoint is not None and endpoint.startswith("http://"),
                "timeout": limit,
                "connect_timeout": limit / 3,
            },
            retry_config={"max_retries": _RETRIES, "retry_timeout": limit},
            **config,
        )
        return cls(url, store, cache)

    def put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        try:
            self._asked(lambda: obstore.put(self._store, _key(digest), content, mode="create", use_multipart=False))
        except AlreadyExistsError:
            if not self._whole(digest):
                self._asked(lambda: obstore.put(self._store, _key(digest), content, use_multipart=False))
        except FileNotFoundError as error:
            raise self._no_bucket() from error
        return digest

    def get(self, digest: str) -> bytes:
        content = self._read(digest)
        if hashlib.sha256(content).hexdigest() != digest:
            raise damaged(digest)
        return content

    def exists(self, digest: str) -> bool:
        try:
            self._asked(lambda: obstore.head(self._store, _key(digest)))
        except FileNotFoundError:
            return False
        return True

    def delete(self, digest: str) -> None:
        self._cache.drop(digest)
        try:
            self._asked(lambda: obstore.delete(self._store, _key(digest)))
        except FileNotFoundError:
            return

    def entries(self) -> Iterator[BlobEntry]:
        pages = iter(self._asked(lambda: obstore.list(self._store)))
        while page := self._page(pages):
            for found in page:
                name = str(found["path"]).rpartition("/")[2]
                if len(name) == 64:
                    yield BlobEntry(name, int(found["size"]), found["last_modified"])

    def check(self, *, filled: bool) -> None:
        """Whether the bucket answers; whether it may be written shows at the first write."""
        if not self._holds_anything() and filled:
            raise self._no_bucket()

    def local(self, digest: str, folder: Path) -> Path:
        target = folder / require_digest(digest)
        self._cache.place(digest, target, lambda: self.get(digest))
        return target

    def _read(self, digest: str) -> bytes:
        try:
            return self._asked(lambda: bytes(obstore.get(self._store, _key(digest)).bytes()))
        except FileNotFoundError as error:
            if self._holds_anything():
                raise NotFound(f"blob {digest[:12]}", "is missing", "restore the bucket from a backup") from error
            raise self._no_bucket() from error

    def _whole(self, digest: str) -> bool:
        try:
            return bool(self.get(digest))
        except (BadInput, NotFound):
            return False

    def _holds_anything(self) -> bool:
        return bool(self._page(iter(obstore.list(self._store, chunk_size=1))))

    def _page(self, pages: Iterator[Sequence[ObjectMeta]]) -> Sequence[ObjectMeta]:
        """The next page of a listing; empty at its end. Raises Unavailable without a bucket."""
        try:
            return self._asked(lambda: next(pages, ()))
        except FileNotFoundError as error:
            raise self._no_bucket() from error

    def _no_bucket(self) -> Unavailable:
        # A bucket of the wrong name must not read as a thousand lost pictures.
        return Unavailable(
            f"bucket {self._url}", "is missing or empty", "check MPAMATCH_BLOBS_URL, or restore it from a backup"
        )

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        """The server's answer. What it says of a failure may name keys and addresses, so only its kind is told."""
        try:
            return ask()
        except (FileNotFoundError, AlreadyExistsError):
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            remedy = "check MPAMATCH_BLOBS_KEY_ID and MPAMATCH_BLOBS_SECRET, and what that key may do"
            raise Unavailable(f"bucket {self._url}", "the server refused the key", remedy) from error
        except BaseError as error:
            remedy = "check that the S3 server runs, and MPAMATCH_BLOBS_ENDPOINT"
            raise Unavailable(f"bucket {self._url}", f"does not answer ({type(error).__name__})", remedy) from error


def _key(digest: str) -> str:
    return f"{require_digest(digest)[:2]}/{digest}"
