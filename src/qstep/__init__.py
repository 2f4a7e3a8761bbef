"""qstep: Q-functions over the reasoning of language models, trained, used and verified.

The rooms, top to bottom, are listed in the README; each imports only from those below it, and importing `qstep` itself
loads none of them.
"""

__version__ = "0.1.0"
