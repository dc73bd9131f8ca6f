"""What is known of a sweep, as files under one root on a disk or in a bucket."""

from orchestrator.store.checksums import decode_document, encode_document, encode_page
from orchestrator.store.damage import Damage, Examination
from orchestrator.store.derived import drop_derived, write_derived
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
from orchestrator.store.lease import Held, Lease, leased
from orchestrator.store.opening import open_as_worker, open_store
from orchestrator.store.preflight import check_marker, preflight
from orchestrator.store.publish import Publisher
from orchestrator.store.repair import repair
from orchestrator.store.rows import make_table
from orchestrator.store.schemas import SCHEMA_VERSION, TABLES
from orchestrator.store.store import Store
from orchestrator.store.verify import examine, verify
from orchestrator.store.whole import check_whole

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "Damage",
    "DamagedFileError",
    "DiskFullError",
    "Examination",
    "Held",
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
    "drop_derived",
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
    "write_derived",
]
