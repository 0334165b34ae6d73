"""Damaged checkpoints: bits flipped; what they say changed and signed anew; tensors changed. And originals (.pth)."""

import io
import json
import random
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load, save

from spikevit import create_model, load_model, save_model
from spikevit.adaptive import add_early_exit, add_halting, allocate_time_steps
from spikevit.checkpoint import digest, read_about
from spikevit.models.legacy import load_original
from tests.hostile.mutations import changed, flipped, outcomes

INFO = {
    **{"name": "digits", "classes": list("0123456789"), "channels": 1, "image_size": [16, 16]},
    **{"mean": [0.3], "std": [0.4], "source": {"name": "digits", "val_fraction": 0.1}},
}
SMALL = {"in_channels": 1, "image_size": 16}
ORIGINAL = {
    **{"img_size_h": 32, "img_size_w": 32, "patch_size": 4, "embed_dims": 32, "num_heads": 2, "mlp_ratios": 4},
    **{"in_channels": 3, "num_classes": 10, "depths": 1, "T": 2, "sr_ratios": 1, "qkv_bias": False},
}


def models() -> list:
    """One of each kind of description."""
    small = create_model("spikformer_tiny", embed_dim=16, depth=1, num_heads=2, **SMALL)
    other = create_model("qkformer_tiny", embed_dim=32, num_heads=2, **SMALL)
    stairs = create_model("ge2mst_tiny", **SMALL)
    return [
        small,
        other,
        stairs,
        add_early_exit(small, 0.9),
        add_halting(small),
        allocate_time_steps(other, target=2.0),
    ]


def campaign(count: int, seed: int, failures: list | None = None) -> Counter[str]:
    """Of `count` damaged checkpoints, what became of them."""
    rng, torch_rng = random.Random(seed), torch.Generator().manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        contents = []
        for i, model in enumerate(models()):
            save_model(model, Path(folder, f"{i}"), data=INFO, recipe="model: {}", epoch=3, val_accuracy=0.5)
            contents.append(Path(folder, f"{i}").read_bytes())

        def cases() -> Iterator:
            for i in range(count):
                way, content = rng.randrange(4), rng.choice(contents)
                made = with_other_tensors(content, rng, torch_rng) if way == 3 else DAMAGE[way](content, rng)
                path = Path(folder, f"damaged-{i}.safetensors")
                yield (way, i), lambda p=path, c=made, s=way != 1: read(p, c, s)

        return outcomes(cases(), failures)


def parts(content: bytes) -> tuple[dict, dict]:
    """Metadata and tensors of a file."""
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size])["__metadata__"], load(content)


def resigned(content: bytes, rng: random.Random) -> bytes:
    """What it says is changed, and the digest made anew: only the types and bounds of what is said can tell."""
    metadata, tensors = parts(content)
    text = json.dumps(changed(json.loads(metadata["spikevit"]), rng), default=str)
    return save(tensors, {"spikevit": text, "sha256": digest(text, tensors)})


def unsigned(content: bytes, rng: random.Random) -> bytes:
    """As `resigned`, with the digest of before."""
    metadata, tensors = parts(content)
    text = metadata["spikevit"]
    while text == metadata["spikevit"]:
        text = json.dumps(changed(json.loads(text), rng), default=str)
    return save(tensors, {"spikevit": text, "sha256": metadata["sha256"]})


def with_other_tensors(content: bytes, rng: random.Random, torch_rng: torch.Generator) -> bytes:
    """A tensor is missing, too many, or of other values, another shape or dtype; the digest is that of before."""
    metadata, tensors = parts(content)
    name = rng.choice(list(tensors))
    tensor = tensors.pop(name)
    others = [
        tensor.double() if tensor.dtype != torch.float64 else tensor.float(),
        tensor.flatten()[:-1].clone() if tensor.numel() > 1 else tensor[None].clone(),
        tensor + torch.randn(tensor.shape, generator=torch_rng).to(tensor.dtype) * 1e-3 + 1,
        torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor + 1,
        tensor.int(),
    ]
    way = rng.randrange(len(others) + 2)
    if way < len(others):
        tensors[name] = others[way]
    elif way == len(others):
        tensors[name + "x"] = tensor
    return save(tensors, metadata)


DAMAGE = (flipped, resigned, unsigned)


def read(path: Path, content: bytes, signed: bool) -> str:
    """Loads a file; one whose digest was not made anew must be refused."""
    path.write_bytes(content)
    try:
        about = read_about(path)
        model = load_model(path)
    finally:
        path.unlink()
    if signed:
        return "ACCEPTED though changed"
    with torch.no_grad():
        c = model.config
        if c.in_channels * c.image_size[0] * c.image_size[1] * c.time_steps < 2**16:
            model(torch.zeros(1, c.in_channels, *c.image_size))
    json.dumps(about)
    return "accepted: another description that fits"


def originals(count: int, seed: int, failures: list | None = None) -> Counter[str]:
    """Of `count` damaged .pth files, or arguments of originals, what became of them."""
    rng = random.Random(seed)
    model = create_model("spikformer_tiny", embed_dim=32, depth=1, num_heads=2, time_steps=2, qkv_bias=True)
    names = model.original_names
    state = {o.name: o.restore(t).clone() for name, t in model.state_dict().items() for o in names[name]}
    good = load_original("spikformer_cifar", ORIGINAL, state).state_dict()
    file = io.BytesIO()
    torch.save({"model": state, "epoch": 3}, file)
    content = file.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        cases = []
        for i in range(count):
            config, made = ORIGINAL, content
            if rng.random() < 0.3:
                config = changed(ORIGINAL, rng)
            else:
                made = flipped(content, rng)
            path = Path(folder, f"damaged-{i}.pth")
            cases.append(((i, config), lambda p=path, c=made, a=config: read_original(p, c, a, good)))
        return outcomes(cases, failures)


def read_original(path: Path, content: bytes, config: dict, good: dict) -> str:
    """Loads an original; weights that are not those of before must be refused."""
    path.write_bytes(content)
    try:
        found = load_original("spikformer_cifar", config, path).state_dict()
    finally:
        path.unlink()
    same = found.keys() == good.keys() and all(torch.equal(found[name], good[name]) for name in good)
    return "accepted: the same weights" if same else "ACCEPTED though changed"
