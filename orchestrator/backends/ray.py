"""Workers as Ray actors: on this machine, or on a cluster that is joined.

An actor is a process that carries no model until it runs, so that pending actors are nothing but demand, which is what makes
a cluster's autoscaler grow. Ray restarts and retries nothing: the scheduler does, knowing what a unit costs.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import ray.exceptions
from ray._private.state import state as cluster_state
from ray._private.worker import _global_node as _unused  # noqa: F401
