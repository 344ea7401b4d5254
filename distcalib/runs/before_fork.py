"""Preloaded last by the fork server: what workers need beside the rules engine, loaded and set aside once.

A worker then shares these modules too, and knows what it is from its birth: files of the rules engine and of
simulation tasks that change on a running machine change nothing of what its workers compute with. The fit
loads its own modules when it starts.
"""

from __future__ import annotations

import signal
from contextlib import suppress

import distributed.nanny
import distributed.worker  # noqa: F401

import distcalib.runs.tasks  # noqa: F401
from distcalib.errors import RunError
from distcalib.runs.workers import identity
from distcalib.simulation.engine import set_aside

# A terminal sends Ctrl-C to workers too. The coordinator ends them in order; what they would say is noise.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# A fork server dies of an error here; each worker is asked again, and its refusal says why.
with suppress(OSError, RunError):
    identity()
set_aside()
