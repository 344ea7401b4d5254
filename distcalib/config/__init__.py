"""Typed settings of runs and clusters."""

from distcalib.config.cluster import ClusterConfig
from distcalib.config.settings import FitConfig, RunConfig, memory_bytes, presets

__all__ = ["ClusterConfig", "FitConfig", "RunConfig", "memory_bytes", "presets"]
