"""A parameter without a value for the period is an error, also where the rules engine makes it a zero."""

from __future__ import annotations

from functools import wraps
from typing import Any


def refuse_empty_scales() -> None:
    """Let a scale of which no bracket has a value at an instant be missing there, as other parameters are.

    The rules engine makes it a scale without brackets, which is zero for everybody: with the values of the
    EITC's maximum gone, the credit was 0 and no error said so. As released, policyengine-us carries first
    values back to 2015 and has no such scale in 2024.

    It stays for the whole process, also where a file is opened with nothing spared: the nodes of parameters
    that the engine keeps are made with it. No value comes from it: a calculation that asks for such a scale
    ends in an error; every other scale is the engine's own.
    """
    from policyengine_core.parameters import ParameterScale

    original = ParameterScale._get_at_instant
    if hasattr(original, "__wrapped__"):
        return

    @wraps(original)
    def get_at_instant(self: Any, instant: Any) -> Any:
        scale = original(self, instant)
        # A node has no child where this is None, so a formula that asks for it fails and names it.
        return scale if len(scale.thresholds) else None

    ParameterScale._get_at_instant = get_at_instant
