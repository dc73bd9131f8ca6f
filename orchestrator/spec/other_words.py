"""Keys that people know from other tools' files, and what stands for them in a cluster file."""

from __future__ import annotations

_FILES = "the project, the sweep and the Python files that it names travel with the job; expected nothing"
_ENVIRONMENT = "expected runtime_env: {env_vars: {NAME: value}}, and secrets: [NAME] for credentials"
OTHER_WORDS = {
    "resources": "expected workers: {gpus: .., cpus: ..} for what one worker needs, and cluster: for where it runs",
    "accelerators": "expected worker: {accelerators: [..]} of a model in the sweep",
    "use_spot": "spot machines are asked for where machines are described: in the launcher's file, as `init aws` "
    "writes it, in a nodeSelector of the RayJob, or in a partition or qos of Slurm",
    "envs": _ENVIRONMENT,
    "env": _ENVIRONMENT,
    "env_vars": _ENVIRONMENT,
    "working_dir": _FILES,
    "workdir": _FILES,
    "py_modules": f"{_FILES}, or packages in runtime_env: {{pip: [..]}}",
    "num_nodes": "expected workers: {max: ..}, or cluster: {slurm: {nodes: ..}}",
    "num_workers": "expected workers: {max: ..}",
}
"""By key, what is said of it."""
