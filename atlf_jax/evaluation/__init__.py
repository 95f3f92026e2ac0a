"""Evaluation: reconstruct and score a split, aggregate over subjects, draw and write the report.

``scoring`` turns networks and a source into rows, ``statistics`` rows into statements, ``figures`` and ``report``
both into pictures, tables and files. Import the submodules by name: this package itself loads nothing.
"""
