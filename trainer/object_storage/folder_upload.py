"""A finished folder, such as an export, published at an address."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from trainer.errors import StorageError, UserError
from trainer.formatting import name_folder, with_names
from trainer.object_storage.fetch import sha256_of
from trainer.object_storage.marker import DIGITS, EMPTY, Entry, read_marker, write_marker
from trainer.object_storage.store import ObjectStore, in_parallel
from trainer.object_storage.urls import home_of, is_url, name_of, tidy


@contextmanager
def folder_to_publish(url: str, manifest: str, replace: bool) -> Iterator[Path]:
    """Give the path of a folder to be made, which is published when the block ends and then removed here.

    Its files keep their names, below one folder for each version, named by the hash of the manifest.

    Args:
        url: Address.
        manifest: File of the folder that names the content of all others.
        replace: Whether what was published there may be replaced.

    Raises:
        UserError: Something is there; nothing has been written then.
        StorageError: The store fails; what was there before is still in force.
    """
    url = tidy(url)
    store = ObjectStore(url)
    before = read_marker(store)
    if before is not None and not replace:
        raise UserError(f"{url}: holds an export. Replace it with --replace, or name another address")
    if before is not None and manifest not in before.entries:
        raise UserError(f"{url}: holds what is no export of ours. Name another address")
    if before is None and any(each.name == manifest for each in store.list()):
        raise UserError(f"{url}: holds {manifest} of something else. Name another address")
    home = home_of(url)
    home.mkdir(parents=True, exist_ok=True)
    beside = Path(mkdtemp(prefix="export-", dir=home))
    folder = beside / name_of(url)
    name_folder(folder, url)
    try:
        yield folder
        _publish(store, folder, manifest)
        old = {entry.key for entry in (before or EMPTY).entries.values()}
        new = {entry.key for entry in (read_marker(store) or EMPTY).entries.values()}
        store.remove(sorted(old - new))
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _publish(store: ObjectStore, folder: Path, manifest: str) -> None:
    version = sha256_of(folder / manifest)[:DIGITS]
    entries = {
        name: Entry(f"{version}/{name}", path.stat().st_size, sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name := str(path.relative_to(folder)))
    }
    in_parallel(lambda each: store.upload(folder / each[0], each[1].key), [*entries.items()])
    sizes = {each.name: each.size for each in store.list()}
    for name, entry in entries.items():
        if sizes.get(entry.key) != entry.size:
            raise StorageError(f"{store.place(entry.key)}: did not arrive whole. Export {name} again")
    write_marker(store, entries)


def upload_beside(path: Path) -> str:
    """Upload a file that was made in the local copy of a run, under its own name, and return where it is.

    It is no part of the run: nobody needs a marker to read it. Elsewhere a file stays where it is.
    """
    place = with_names(str(path))
    if is_url(place):
        ObjectStore(place).upload(path, "")
    return place
