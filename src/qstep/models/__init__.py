"""Models: modules whose forward(batch) gives Q-values, log-probs, or log-probs and values; the step contract."""

from qstep.models.loading import LoadedModel, ModelOptions
from qstep.models.merge import merge_adapter
from qstep.models.packing import Batch, StepBatch, collate_groups, moved, with_prompts
from qstep.models.policy import PolicyModel, PolicyWithValue, ValueNetwork
from qstep.models.pretrained import PretrainedModule
from qstep.models.readers import LogRatioModel, WordPairModel
from qstep.models.row_steps import encode_row_steps
from qstep.models.scorer import ScorerModel, StepContract, check_length, collate_steps, encode_steps

__all__ = [
    "Batch",
    "LoadedModel",
    "LogRatioModel",
    "ModelOptions",
    "PolicyModel",
    "PolicyWithValue",
    "PretrainedModule",
    "ScorerModel",
    "StepBatch",
    "StepContract",
    "ValueNetwork",
    "WordPairModel",
    "check_length",
    "collate_groups",
    "collate_steps",
    "encode_row_steps",
    "encode_steps",
    "merge_adapter",
    "moved",
    "with_prompts",
]
