"""One file for each command. A command reads rows or problems, and writes rows or a model.

Heavy imports are lazy, except in `train`.
"""
