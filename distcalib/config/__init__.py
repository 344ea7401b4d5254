"""Typed settings of runs and clusters."""

from distcalib.config.settings import ClusterConfig, FitConfig, RunConfig, memory_bytes, presets

__all__ = ["ClusterConfig", "FitConfig", "RunConfig", "memory_bytes", "presets"]
