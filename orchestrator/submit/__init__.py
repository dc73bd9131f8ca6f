"""From ``cluster.yaml`` to a job on a cluster: packing, submitting, following, cancelling."""

from orchestrator.submit import launcher, rayjob, slurm
from orchestrator.submit.bundle import Bundle, bundle
from orchestrator.submit.cluster_file import LoadedCluster, load_cluster
from orchestrator.submit.jobs import Job, Jobs, authenticate, connect
from orchestrator.submit.secrets import Secrets, adopt_environment, collect

__all__ = [
    "Bundle",
    "Job",
    "Jobs",
    "LoadedCluster",
    "Secrets",
    "adopt_environment",
    "authenticate",
    "bundle",
    "collect",
    "connect",
    "launcher",
    "load_cluster",
    "rayjob",
    "slurm",
]
