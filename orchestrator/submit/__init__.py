"""From ``cluster.yaml`` to a job on a cluster: packing, submitting, following, cancelling."""

from orchestrator.submit import launcher, rayjob
from orchestrator.submit.bundle import Bundle, bundle
from orchestrator.submit.cluster_file import LoadedCluster, load_cluster
from orchestrator.submit.jobs import Job, Jobs, authenticate, connect

__all__ = [
    "Bundle",
    "Job",
    "Jobs",
    "LoadedCluster",
    "authenticate",
    "bundle",
    "connect",
    "launcher",
    "load_cluster",
    "rayjob",
]
