"""An object store: a few operations on the objects below one address. fsspec is imported here alone."""

import asyncio
import importlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trainer.errors import StorageError
from trainer.object_storage.retries import Outage, reason, retried
from trainer.object_storage.urls import scheme_of, tidy

Result = TypeVar("Result")
AT_ONCE = 8
"""Objects that are sent or fetched at once."""
ANSWER_SECONDS, SLOWEST = 20.0, 1e5
"""How long a store may take to answer, and how slowly it may take what is sent, in bytes a second."""
VERSIONS = ("ETag", "etag", "generation", "md5Hash", "content_md5", "mtime", "LastModified", "created")
"""What tells one content of an object from another, in listings of stores; the first that a store has."""
_FS: dict[str, Any] = {}


@dataclass(frozen=True)
class Scheme:
    """What one kind of store needs.

    Attributes:
        extra: The extra that installs it, or None.
        packages: What that installs.
        credentials: How credentials are given.
        options: What its file system is made with.
    """

    extra: str | None
    packages: str
    credentials: str
    options: dict[str, Any]


AMAZON = Scheme(
    "s3",
    "fsspec s3fs filelock",
    "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; AWS_ENDPOINT_URL for a store of your own",
    # Trying again is done here, so that it is told and has one limit.
    {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 5, "read_timeout": 15}},
)
GOOGLE = Scheme(
    "gs",
    "fsspec gcsfs filelock",
    "GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login",
    {},
)
AZURE = Scheme(None, "fsspec adlfs filelock", "AZURE_STORAGE_CONNECTION_STRING, or those of adlfs", {})
OTHER = Scheme(None, "fsspec filelock", "as fsspec's file system of this scheme takes them", {})
SCHEMES = {"s3": AMAZON, "s3a": AMAZON, "gs": GOOGLE, "gcs": GOOGLE, "az": AZURE, "abfs": AZURE}
"""Stores by scheme; all others that fsspec knows are `OTHER`."""


@dataclass(frozen=True)
class StoredObject:
    """An object as a listing names it.

    Attributes:
        name: Its place below the address; empty for the object at the address itself.
        size: Bytes.
        version: What changes when it is written anew: its ETag, generation or time.
    """

    name: str
    size: int
    version: str


class ObjectStore:
    """The objects below one address. Errors that pass are waited for; others name the object and a remedy.

    Threads may share it. All methods raise StorageError.
    """

    def __init__(self, url: str, patient: bool = True) -> None:
        """Open an address; nothing is asked of the store yet.

        Args:
            url: The address.
            patient: Whether a store that does not answer is waited for.

        Raises:
            StorageError: A package is missing, or the scheme is unknown.
        """
        self.url, self._patient = tidy(url), patient
        self._scheme = SCHEMES.get(scheme_of(url) or "", OTHER)
        self._files = _filesystem(self.url, self._scheme)
        self._root = self._files._strip_protocol(self.url).rstrip("/")
        self._outage = Outage(self.url)

    def place(self, key: str) -> str:
        """Return the address of an object, as messages name it."""
        return f"{self.url}/{key}" if key else self.url

    def list(self) -> list[StoredObject]:
        """Return all objects below the address, or the one at it, by name; none where there are none."""
        found = self._try(lambda: self._files.find(self._root, detail=True), "", missing={})
        objects = [
            StoredObject(path[len(self._root) :].lstrip("/"), int(facts["size"]), _version(facts))
            for path, facts in found.items()
            if facts.get("type") != "directory" and not path.endswith("/")
        ]
        return sorted(objects, key=lambda each: each.name)

    def read(self, key: str) -> bytes | None:
        """Return the content of a small object; None: it is not there."""
        return self._try(lambda: self._files.cat_file(self._path(key)), key, missing=None)

    def write(self, key: str, content: bytes) -> None:
        """Write a small object, in one request, so that it is there as a whole or not at all."""
        self._try(lambda: self._send("pipe_file", self._path(key), content, size=len(content)), key)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object unless it is there, by a conditional request where the store has one.

        Returns:
            Whether it has been written.
        """
        if self._try(lambda: self._files.exists(self._path(key)), key):
            return False
        try:
            self._try(lambda: self._send("pipe_file", self._path(key), content, mode="create"), key)
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):
            self.write(key, content)
        return True

    def upload(self, path: Path, key: str) -> None:
        """Write a file as an object."""
        size = path.stat().st_size
        self._try(lambda: self._send("put_file", str(path), self._path(key), size=size), key)

    def download(self, key: str, path: Path) -> None:
        """Read an object into a file.

        Raises:
            FileNotFoundError: It is not there.
        """
        self._try(lambda: self._files.get_file(self._path(key), str(path)), key, gone=True)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are gone already do not matter."""
        in_parallel(
            lambda key: self._try(lambda: self._files.rm_file(self._path(key)), key, missing=None), [*keys]
        )

    def _send(self, method: str, *arguments: Any, size: int = 0, **options: Any) -> None:
        """Write something, within a time that its size allows.

        A client that has asked whether it may send (`Expect: 100-continue`) waits for the answer without a
        limit. What is late is cancelled, so that it cannot arrive after what is written next.

        Args:
            method: Of the file system.
            arguments: Of the method.
            size: Bytes that are sent.
            options: Of the method.

        Raises:
            TimeoutError: It took too long.
        """
        if not self._files.async_impl:
            getattr(self._files, method)(*arguments, **options)
            return
        coroutine = getattr(self._files, f"_{method}")(*arguments, **options)
        future = asyncio.run_coroutine_threadsafe(coroutine, self._files.loop)
        limit = ANSWER_SECONDS + size / SLOWEST
        try:
            future.result(limit)
        except TimeoutError:
            future.cancel()
            raise TimeoutError(f"silent for {limit:.0f} s") from None

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _try(self, work: Callable[[], Any], key: str, gone: bool = False, **missing: Any) -> Any:
        """Return the result of one operation, tried again while its errors may pass.

        Args:
            work: The operation.
            key: What it is on.
            gone: Whether a missing object is raised as it is.
            missing: The value `missing` in place of an object that is not there.
        """
        try:
            return retried(work, self._outage, self.place(key), self._patient)
        except (StorageError, FileExistsError, NotImplementedError, TypeError, ValueError):
            raise
        except FileNotFoundError as error:
            if _no_bucket(error):
                raise StorageError(
                    f"{self.place(key)}: no such bucket ({reason(error)}). Make it, or name another address"
                ) from error
            if gone:
                raise
            if "missing" in missing:
                return missing["missing"]
            raise StorageError(
                f"{self.place(key)}: no such object ({reason(error)}). Name another address"
            ) from error
        except OSError as error:
            if error.filename and not isinstance(error, PermissionError):
                raise  # a file of this machine
            raise self._refused(key, error) from error
        except Exception as error:
            if not type(error).__module__.startswith(("botocore", "aiobotocore", "google", "gcsfs", "azure")):
                raise
            raise self._refused(key, error) from error

    def _refused(self, key: str, error: Exception) -> StorageError:
        return StorageError(
            f"{self.place(key)}: access failed ({reason(error)}). Check credentials and their rights: "
            f"{self._scheme.credentials}"
        )


def in_parallel(work: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
    """Return the results of `work` on several items, a few of them at once; the first error is raised."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _filesystem(url: str, scheme: Scheme) -> Any:
    """Return fsspec's file system for an address, one a process."""
    extra = f" (the extra `{scheme.extra}`)" if scheme.extra else ""
    name = scheme_of(url) or ""
    if name in _FS:
        return _FS[name]
    try:
        importlib.import_module("filelock")  # which local copies need
        fsspec = importlib.import_module("fsspec")
        # Listings that are kept would hide what other hosts write.
        found = fsspec.filesystem(name, use_listings_cache=False, **scheme.options)
    except ImportError as error:
        raise StorageError(
            f"{url}: a package is not installed ({reason(error)}). Run: pip install {scheme.packages}{extra}"
        ) from error
    except ValueError as error:
        raise StorageError(
            f"{url}: {reason(error)}. Use s3://, gs://, or another scheme that fsspec knows"
        ) from error
    # What fails is raised, and told in one line; gcsfs logs it as well, with a traceback.
    logging.getLogger(type(found).__module__.partition(".")[0]).setLevel(logging.CRITICAL)
    if hasattr(found, "retries"):
        found.retries = 1
    _FS[name] = found
    return found


def _version(facts: dict[str, Any]) -> str:
    return next((str(facts[name]).strip('"') for name in VERSIONS if facts.get(name)), "")


def _no_bucket(error: BaseException) -> bool:
    cause = error.__cause__
    code = getattr(cause, "response", {}).get("Error", {}).get("Code") if cause else None
    return code == "NoSuchBucket" or "bucket does not exist" in str(error)
