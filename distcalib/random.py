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
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_AT_ONCE = 16_384  # four arrays of 128 KiB


def stream_key(seed: int, name: str) -> np.uint64:
    """Return the 64-bit key of a named stream of a seed (sha256, so names never collide by accident)."""
    return np.uint64(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little"))


def _mix(z: NDArray[np.uint64], scratch: NDArray[np.uint64]) -> None:
    """Mix in place: the arrays stay in the processor's cache, and nothing is allocated."""
    for shift, factor in _ROUNDS:
        np.right_shift(z, shift, out=scratch)
        np.bitwise_xor(z, scratch, out=z)
        np.multiply(z, factor, out=z)
    np.right_shift(z, np.uint64(31), out=scratch)
    np.bitwise_xor(z, scratch, out=z)


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
        53-bit uniforms, never exactly 0 or 1; the shape is the broadcast shape of `ids`. No array of that
        size is allocated besides (``benchmarks/draws.py`` measures speed and memory).
    """
    key = stream_key(seed, name)
    # Walks the broadcast ids in pieces that fit the cache, whatever their shapes; 0 stands in for no id.
    walk = np.nditer(  # type: ignore[call-overload]
        [*(np.asarray(part) for part in ids or (0,)), None],
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=[["readonly"]] * max(len(ids), 1) + [["writeonly", "allocate"]],
        op_dtypes=[np.int64] * max(len(ids), 1) + [np.float64],
        casting="unsafe",
        order="C",
        buffersize=_AT_ONCE,
    )
    room = np.empty((3, _AT_ONCE), dtype=np.uint64)
    with walk, np.errstate(over="ignore"):
        for *parts, draws in walk:
            state, part, scratch = room[:, : len(draws)]
            state[:] = key
            for values in parts[: len(ids)]:
                np.add(values.view(np.uint64), _GOLDEN, out=part)
                _mix(part, scratch)
                np.bitwise_xor(state, part, out=state)
                np.add(state, _GOLDEN, out=state)
                _mix(state, scratch)
            np.right_shift(state, np.uint64(11), out=state)
            np.add(state, 0.5, out=draws)
            np.multiply(draws, 2.0**-53, out=draws)
        found: NDArray[np.float64] = walk.operands[-1][()]
    return found
