"""Plans, and carrying them out: resume, verification, manifest."""

from distcalib.runs.plan import Plan, make_plan
from distcalib.runs.run import Run

__all__ = ["Plan", "Run", "make_plan"]
