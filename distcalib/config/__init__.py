"""Typed settings of runs and clusters."""

from distcalib.config.settings import ClusterConfig, RunConfig, memory_bytes, presets

__all__ = ["ClusterConfig", "RunConfig", "memory_bytes", "presets"]
