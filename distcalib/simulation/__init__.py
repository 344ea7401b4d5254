"""Placed households under the rules engine, take-up, and warm workers."""
