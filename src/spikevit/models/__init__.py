"""The zoo: one paper a file, models by name."""

from spikevit.models import qkformer, spikformer  # noqa: F401  (registers the models)
from spikevit.models.base import ModelConfig, SpikingModel
from spikevit.models.qkformer import QKFormer, QKFormerConfig
from spikevit.models.registry import create_model, list_models, model_entry
from spikevit.models.spikformer import Spikformer, SpikformerConfig

__all__ = [
    "ModelConfig",
    "QKFormer",
    "QKFormerConfig",
    "Spikformer",
    "SpikformerConfig",
    "SpikingModel",
    "create_model",
    "list_models",
    "model_entry",
]
