"""Objectives: one file a method, with its rows, batches, losses and metrics, and the table of methods.

Reading the table imports no method. So the command line, the model card and the report take names and labels from it.
"""

from qstep.objectives.methods import METHODS, Method

__all__ = ["METHODS", "Method"]
