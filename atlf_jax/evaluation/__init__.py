"""Evaluation: reconstruct and score a split, aggregate over subjects, draw and write the report.

A ``trial`` is models on a source under masks. ``slices`` reconstructs it, ``scoring`` makes rows of it, ``statistics``
statements; ``study`` gathers both, and ``tables``, ``page`` and ``report`` write them. Import the submodules by name:
this package itself loads nothing.
"""
