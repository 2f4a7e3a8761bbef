"""Objectives: one file a method, which says what rows, batches, losses and metrics are; and the table of methods.

The table loads nothing, so the command line, the model card and the report read names and labels from it.
"""

from qstep.objectives.methods import METHODS, Method

__all__ = ["METHODS", "Method"]
