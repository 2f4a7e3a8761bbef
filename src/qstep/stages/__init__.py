"""One file for each command, and `commands.py`, the table of them.

A command reads rows or problems, and writes rows or a model. `evaluate_steps.py` is `qstep evaluate processbench`, and
`train.py` is `qstep train` with every method. Heavy imports are lazy, except in `train`.
"""
