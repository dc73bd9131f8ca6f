"""What is known of a sweep, as files under one root on a disk or in a bucket."""

from orchestrator.store.damage import Damage, Examination
from orchestrator.store.errors import (
    DamagedFileError,
    DiskFullError,
    LeaseHeldError,
    LeaseLostError,
    MissingFileError,
    NewerVersionError,
    StoreError,
    UnwritableError,
)
from orchestrator.store.lease import Beating, Lease, leased
from orchestrator.store.opening import open_as_worker, open_store
from orchestrator.store.preflight import check_marker, preflight
from orchestrator.store.publish import Publisher
from orchestrator.store.repair import repair
from orchestrator.store.schemas import SCHEMA_VERSION, TABLES, make_table
from orchestrator.store.sealed import decode_document, encode_document, encode_page
from orchestrator.store.store import Store
from orchestrator.store.verify import examine, verify
from orchestrator.store.whole import check_whole

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "Beating",
    "Damage",
    "DamagedFileError",
    "DiskFullError",
    "Examination",
    "Lease",
    "LeaseHeldError",
    "LeaseLostError",
    "MissingFileError",
    "NewerVersionError",
    "Publisher",
    "Store",
    "StoreError",
    "UnwritableError",
    "check_marker",
    "check_whole",
    "decode_document",
    "encode_document",
    "encode_page",
    "examine",
    "leased",
    "make_table",
    "open_as_worker",
    "open_store",
    "preflight",
    "repair",
    "verify",
]
