"""Counter-based random numbers: a draw is a pure function of its key.

A draw never depends on order, index, worker, batch or thread, so splitting or reordering work cannot change
it. The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators"), applied once for each part of the key.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def stream_key(seed: int, name: str) -> np.uint64:
    """Return the 64-bit key of a named stream of a seed (sha256, so names never collide by accident)."""
    return np.uint64(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little"))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, name: str, *ids: ArrayLike) -> NDArray[np.float64]:
    """Uniform draws in (0, 1), one for each broadcast element of `ids`.

    Parameters
    ----------
    seed, name
        Identify the stream, for example ``(0, "takes_up_snap_if_eligible")``.
    *ids
        Integer arrays (broadcast together) that identify each draw, for example donor entity id and clone.

    Returns
    -------
    ndarray of float64
        53-bit uniforms, never exactly 0 or 1; the shape is the broadcast shape of `ids`.
    """
    with np.errstate(over="ignore"):
        state = np.asarray(stream_key(seed, name))
        for part in ids:
            values = np.asarray(part).astype(np.int64).astype(np.uint64)
            state = _mix((state ^ _mix(values + _GOLDEN)) + _GOLDEN)
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
