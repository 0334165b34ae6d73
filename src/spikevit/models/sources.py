"""How the models of the original repositories are configured: from their arguments to our configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spikevit.models.base import SpikingModel
from spikevit.models.msvit import MSViT, MSViTConfig
from spikevit.models.qkformer import QKFormer, QKFormerConfig
from spikevit.models.sdt import SDTConfig, SpikeDrivenTransformer
from spikevit.models.spikformer import Spikformer, SpikformerConfig
from spikevit.models.spikingformer import Spikingformer, SpikingformerConfig
from spikevit.models.stmixer import STMixer, STMixerConfig
from spikevit.schema import Count, Positive, fit, wrong

SIZES = "img_size_h img_size_w img_size num_classes in_channels T embed_dims embd_dims depths num_heads num_head"
ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys([*SIZES.split(), "downsample_times"], Count),
    **{"mlp_ratios": Positive, "mlp_ratio": Positive, "pooling_stat": str, "sml": bool},
}


def arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """An original's arguments that we need, each of its type; the others are left out."""
    if not isinstance(config, Mapping):
        raise wrong("config", config, "a mapping of the original's arguments")
    return {name: fit(value, ARGUMENTS[name], name) for name, value in config.items() if name in ARGUMENTS}


def _common(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_classes": config["num_classes"],
        "in_channels": config["in_channels"],
        "image_size": (config["img_size_h"], config["img_size_w"]),
        "time_steps": config["T"],
        "embed_dim": config["embed_dims"],
        "mlp_ratio": config["mlp_ratios"],
    }


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return _common(config) | {"depth": config["depths"], "num_heads": config["num_heads"]}


def _staged(kind: type[QKFormerConfig], stem: str, mixer: str | None = None):
    """Of three stages; depths counts all blocks, and the CIFAR code ignores num_heads: it has 8."""
    early = (1, 1) if stem == "cifar" else (1, 2)

    def make(config: Mapping[str, Any]) -> QKFormerConfig:
        values = _common(config) | {"depths": (*early, config["depths"] - sum(early)), "stem": stem}
        values["num_heads"] = 8 if stem == "cifar" else config["num_heads"]
        if mixer:
            values["mixers"] = (mixer, mixer, "ssa")
        return kind(**values)

    return make


def _stmixer(config: Mapping[str, Any]) -> STMixerConfig:
    return STMixerConfig(
        num_classes=config["num_classes"],
        in_channels=config["in_channels"],
        image_size=(config["img_size"], config["img_size"]),
        time_steps=config["T"],
        embed_dim=config["embd_dims"],
        mlp_ratio=config["mlp_ratio"],
        depth=config["depths"],
        num_heads=config["num_head"],
        downsample_times=config["downsample_times"],
        sml=config["sml"],
    )


def _sdt(config: Mapping[str, Any]) -> SDTConfig:
    return SDTConfig(**_flat(config), pools=tuple(i for i, bit in enumerate(config["pooling_stat"]) if bit == "1"))


@dataclass(frozen=True)
class Source:
    """An original: our model for it, its arguments as our config, and its parameters that nothing there uses."""

    build: type[SpikingModel]
    config: Callable[[Mapping[str, Any]], Any]
    unused: str = r"(?!)"


_NORMS = r"block\.\d+\.norm[12]\.(weight|bias)"
SOURCES: dict[str, Source] = {
    "msvit_cifar10": Source(MSViT, _staged(MSViTConfig, "cifar", "ms_token")),
    "msvit_cifar100": Source(MSViT, _staged(MSViTConfig, "cifar", "ms_channel")),
    "msvit_imagenet": Source(MSViT, _staged(MSViTConfig, "imagenet", "ms_token")),
    "qkformer_cifar": Source(QKFormer, _staged(QKFormerConfig, "cifar")),
    "qkformer_imagenet": Source(QKFormer, _staged(QKFormerConfig, "imagenet")),
    "sdt": Source(SpikeDrivenTransformer, _sdt, r"block\.\d+\.attn\.talking_heads\.weight"),
    "spikformer_cifar": Source(
        Spikformer, lambda config: SpikformerConfig(**_flat(config), pools=(2, 3), qkv_bias=True), _NORMS
    ),
    "spikformer_imagenet": Source(Spikformer, lambda config: SpikformerConfig(**_flat(config)), _NORMS),
    "spikingformer_cifar": Source(
        Spikingformer, lambda config: SpikingformerConfig(**_flat(config), pools=(3, 4)), _NORMS
    ),
    "spikingformer_imagenet": Source(Spikingformer, lambda config: SpikingformerConfig(**_flat(config)), _NORMS),
    "stmixer": Source(STMixer, _stmixer),
}
