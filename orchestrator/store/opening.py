"""Opens results by their address, and refuses what is none."""

from __future__ import annotations

from loco_core.errors import StoreError
from loco_core.masking import has_password
from orchestrator.spec.places import STORAGES, expected_storage
from orchestrator.store import layout
from orchestrator.store.blobs import Blobs
from orchestrator.store.errors import MissingFileError
from orchestrator.store.preflight import check_marker, not_shared
from orchestrator.store.store import Store


def open_store(root: str, *, create: bool = True) -> Store:
    """Opens a results root.

    Args:
        root: a folder, or an address such as ``s3://bucket/folder``.
        create: whether to make a folder; without, it must hold a sweep.

    Raises:
        StoreError: the address is none, or there is no sweep.
    """
    store = Store(open_blobs(root, create=create))
    if not store.blobs.exists(layout.SWEEP):
        _check_no_leftovers(store)
        if not create and store.committed():
            raise StoreError(
                f"{root}/{layout.SWEEP}: missing, though results are there; "
                f"`loco-sweep run SWEEP.yaml --results {root}` with the sweep's file writes it again"
            )
        if not create:
            raise MissingFileError(f"{root}: holds no sweep; expected a results folder of `loco-sweep run`")
    return store


def open_blobs(root: str, *, create: bool = True) -> Blobs:
    """Opens a place, whatever is there.

    Args:
        root: a folder, or an address such as ``s3://bucket/folder``.
        create: whether to make a folder.

    Raises:
        StoreError: the address is none, or there is no such folder.
    """
    scheme, separator, _ = root.partition("://")
    if separator and scheme not in (*STORAGES, "file"):
        raise StoreError(f"{root}: {expected_storage(scheme)}")
    if separator and has_password(root):
        raise StoreError(
            f"{root}: an address is written into the results and their reports; expected one without a password, and "
            "the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, say) in the environment"
        )
    return _bucket(scheme, root) if scheme in STORAGES and separator else _local(root.removeprefix("file://"), create)


def _check_no_leftovers(store: Store) -> None:
    """Refuses a root that holds tables of results and nothing of what they were made by: all would be computed again.

    Raises:
        StoreError: it does.
    """
    if layout.numbers(store.blobs.list(layout.MANIFESTS), layout.manifest) or store.committed():
        return
    for name in layout.parted():
        found = [path for n, path in layout.parts(name, store.blobs.list(layout.folder(name))).items() if n > 0]
        if found:
            raise StoreError(
                f"{store.root}: {found[0]} is there, but not _meta, which says what the tables were made of: put _meta "
                "back, or move the tables elsewhere and run the sweep into a new folder; the tables alone can be read, "
                "and localized again (`loco-sweep localize " + f"{store.root}/scores`)"
            )


def open_as_worker(root: str, marker: str) -> Store:
    """Opens the results root of a run in one of its workers.

    Args:
        root: as the driver opened it.
        marker: see :func:`orchestrator.store.preflight`.

    Raises:
        StoreError: this machine has no such folder, or another one of that name.
    """
    try:
        store = open_store(root, create=False)
    except MissingFileError as error:
        raise not_shared(root) from error
    check_marker(store.blobs, marker)
    return Store(store.blobs, marker)


def _local(root: str, create: bool) -> Blobs:
    from orchestrator.store.local import LocalBlobs

    return LocalBlobs(root, create=create)


def _bucket(scheme: str, root: str) -> Blobs:
    # Loaded only where they are needed: clients and their libraries take a second.
    if scheme == "s3":
        from orchestrator.store.s3 import S3Blobs

        return S3Blobs(root)
    try:
        if scheme == "gs":
            from orchestrator.store.gcs import GcsBlobs

            return GcsBlobs(root)
        from orchestrator.store.azure import AzureBlobs

        return AzureBlobs(root)
    except ModuleNotFoundError as error:
        extra = STORAGES[scheme]
        raise StoreError(
            f"{root}: {error.name} is not installed; `pip install 'loco-sweep[{extra}]'` installs it"
        ) from error
