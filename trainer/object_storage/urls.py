"""Addresses of object stores, and where their local copies lie."""

import hashlib
import os
import re
from pathlib import Path

SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
LOCAL = ("file", "local")
"""Schemes of paths on this machine."""
CACHE = "SHARDTOWER_STORE_CACHE"
"""Environment variable that names the folder of local copies."""


def scheme_of(place: str | os.PathLike[str]) -> str | None:
    """Return the scheme of an address of objects, `s3` for instance; None of a path of this machine."""
    match = SCHEME.match(os.fspath(place))
    return match[1].lower() if match and match[1].lower() not in LOCAL else None


def is_url(place: str | os.PathLike[str]) -> bool:
    """Return whether a place is in an object store; `file://` is a path of this machine."""
    return scheme_of(place) is not None


def local_path(place: str | os.PathLike[str]) -> Path:
    """Return the path that a text or a `file://` address names."""
    text = os.fspath(place)
    match = SCHEME.match(text)
    return Path(text[match.end() :] if match and match[1].lower() in LOCAL else text)


def absolute(place: str) -> str:
    """Return a path in full; an address is returned as it is."""
    return place if is_url(place) else str(local_path(place).absolute())


def tidy(url: str) -> str:
    """Return an address without slashes at its end."""
    return url.rstrip("/")


def name_of(url: str) -> str:
    """Return the last part of an address."""
    return tidy(url).rpartition("/")[2] or "store"


def home_of(url: str) -> Path:
    """Return the folder of all local copies of an address: under `SHARDTOWER_STORE_CACHE`, or the cache."""
    given = os.environ.get(CACHE)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(given) if given else caches / "shardtower" / "objects"
    return root / hashlib.sha256(tidy(url).encode()).hexdigest()[:16]
