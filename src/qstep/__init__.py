"""qstep: Q-functions over the reasoning of language models, trained, used and verified.

The rooms, top to bottom; each imports only from those below it:
`cli`, `demo`, `stages`, `report | trainers | evals`, `search`, `annotate`, `generation`, `models`, `data`,
`grading`, `losses`, `mdp`, `types`. Importing `qstep` itself loads none of them.
"""

__version__ = "0.1.0"
