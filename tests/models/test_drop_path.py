"""Drop path: which branches are dropped, how often, by what they are scaled; and that nothing else changes."""

import pytest
import torch
from torch import nn

from spikevit import add_halting, create_model, list_models, load_model, load_weights, save_model
from spikevit.layers import Block, drop_path, drop_rates

TINY = list_models("*_tiny")
X = torch.randn(4, 3, 16, 16)


def blocks(model) -> list[Block]:
    return [m for m in model.modules() if isinstance(m, Block)]


def test_rates_are_linear_in_depth():
    """timm: linspace(0, rate, depth)."""
    assert drop_rates(0.3, [4]) == [pytest.approx([0.0, 0.1, 0.2, 0.3])]
    stages = drop_rates(0.4, (1, 1, 3))
    assert [len(stage) for stage in stages] == [1, 1, 3]
    assert [*stages[0], *stages[1], *stages[2]] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert drop_rates(0.4, [1]) == [[0.0]]


@pytest.mark.parametrize("name", TINY)
def test_blocks_of_every_family(name):
    model = create_model(name, image_size=16, drop_path_rate=0.3)
    rates = [block.drop_path_rate for block in blocks(model)]
    n = len(rates)
    assert rates == pytest.approx([0.3 * i / (n - 1) for i in range(n)]) and rates[-1] == pytest.approx(0.3)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_one_draw_a_sample(kind):
    y = torch.ones(3, 20_000, 2, 5, dtype=kind)
    out = drop_path(y, 0.25)
    assert out.dtype == kind
    of_sample = out[0, :, 0, 0]
    assert torch.equal(out, of_sample[None, :, None, None].expand_as(out)), "all steps, tokens, channels alike"
    assert set(of_sample.double().unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75, dtype=kind))}
    dropped = float((of_sample == 0).double().mean())
    assert abs(dropped - 0.25) < 4 * (0.25 * 0.75 / 20_000) ** 0.5
    assert abs(float(of_sample.double().mean()) - 1) < 0.02, "the mean stays"


class Two(nn.Module):
    def forward(self, x, stream=None):
        return torch.full_like(x, 2.0)


def test_block():
    """x + k₁ · 2 + k₂ · 2 with k in {0, 2}: 1, 5 or 9, by two draws of their own; in evaluation 5."""
    block, x = Block(Two(), Two(), 0.5), torch.ones(2, 4_000, 3)
    assert torch.equal(block.eval()(x), torch.full_like(x, 5.0))
    out = block.train()(x)[0, :, 0]
    shares = [float((out == value).double().mean()) for value in (1.0, 5.0, 9.0)]
    assert sum(shares) == 1.0 and shares == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


@pytest.mark.parametrize("name", TINY)
def test_evaluation_and_rate_zero_draw_nothing(name):
    torch.manual_seed(0)
    plain = create_model(name, image_size=16)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    dropping = create_model(name, image_size=16, drop_path_rate=0.9)
    assert torch.equal(after, torch.get_rng_state())
    state = torch.get_rng_state()
    assert torch.equal(dropping.eval()(X), plain.eval()(X))
    plain.train()(X)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", TINY)
def test_training(name):
    """Gradients are finite; a branch that is dropped for all samples gets none."""
    torch.manual_seed(1)
    model = create_model(name, image_size=16, drop_path_rate=0.999999).train()
    model.loss(X, torch.tensor([0, 1, 2, 3]))[0].backward()
    last = blocks(model)[-1]
    assert all(p.grad is None or not p.grad.any() for p in last.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert any(p.grad is not None and p.grad.any() for p in blocks(model)[0].parameters()), "of the first the rate is 0"


def test_compiles():
    torch._dynamo.reset()
    model = create_model("spikformer_tiny", image_size=16, drop_path_rate=0.5).train()
    torch.compile(model, fullgraph=True, backend="aot_eager")(X).sum().backward()


def test_checkpoints_of_other_rates(tmp_path):
    """Weights and evaluation do not depend on it, so that one may go on with another."""
    path = tmp_path / "m.safetensors"
    model = create_model("spikformer_tiny", image_size=16, drop_path_rate=0.2).eval()
    save_model(model, path)
    again = load_model(path)
    assert again.config.drop_path_rate == 0.2 and blocks(again)[-1].drop_path_rate == 0.2
    other = load_weights(create_model("spikformer_tiny", image_size=16).eval(), path)
    assert other.config.drop_path_rate == 0 and torch.equal(other(X), model(X))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), "high", None])
def test_wrong_rates(rate):
    with pytest.raises(ValueError, match=f"drop_path_rate={rate!r} must be a number of at least 0 and below 1"):
        create_model("qkformer_tiny", drop_path_rate=rate)


def test_halting_is_trained_without():
    halting = add_halting(create_model("spikformer_tiny", image_size=16, drop_path_rate=0.1))
    with pytest.raises(ValueError, match=r"drop_path_rate=0.1 does not combine with training of halting"):
        halting.train().loss(X, torch.tensor([0, 1, 2, 3]))
    assert halting.eval()(X).shape == (4, 10)
