"""Measures, sparse blocks, and the matrix of targets x columns."""
