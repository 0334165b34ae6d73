"""The zoo: one paper a file, models by name."""

from spikevit.models.base import ModelConfig, SpikingModel
from spikevit.models.ge2mst import Ge2mST, Ge2mSTConfig
from spikevit.models.msvit import MSViT, MSViTConfig
from spikevit.models.qkformer import QKFormer, QKFormerConfig
from spikevit.models.registry import create_model, list_models, model_entry
from spikevit.models.sdt import SDTConfig, SpikeDrivenTransformer
from spikevit.models.spikformer import Spikformer, SpikformerConfig
from spikevit.models.spikingformer import Spikingformer, SpikingformerConfig
from spikevit.models.stmixer import STMixer, STMixerConfig

__all__ = [
    "Ge2mST",
    "Ge2mSTConfig",
    "MSViT",
    "MSViTConfig",
    "ModelConfig",
    "QKFormer",
    "QKFormerConfig",
    "SDTConfig",
    "STMixer",
    "STMixerConfig",
    "SpikeDrivenTransformer",
    "Spikformer",
    "SpikformerConfig",
    "SpikingModel",
    "Spikingformer",
    "SpikingformerConfig",
    "create_model",
    "list_models",
    "model_entry",
]
