"""STMixer's surrogate module learning: the loss is its formula, the heads see time, and inference does without them."""

import pytest
import torch
import torch.nn.functional as F

from spikevit import create_model
from spikevit.profiling.count import count


def make(**config):
    torch.manual_seed(0)
    return create_model("stmixer_tiny", image_size=16, depth=4, sml=True, **config).double()


def images(batch: int = 3):
    return torch.randn(batch, 3, 16, 16, dtype=torch.float64)


def test_loss_equals_its_formula():
    model, labels = make(sml_weight=0.7, sml_temperature=2.0, sml_share=0.4).eval(), torch.tensor([1, 5, 7])
    x = images()
    main, *heads = model.all_logits(x)
    assert len(heads) == 2

    def kl(u, w):
        p, q = (w / 2.0).softmax(-1), (u / 2.0).softmax(-1)
        return (p * (p / q).log()).sum(-1).mean()

    soft = sum(kl(z, main) + kl(main, z) for z in heads) / 4
    ce = [F.cross_entropy(z, labels) for z in (main, *heads)]
    hard = (ce[0] + 0.4 * (ce[1] + ce[2])) / (1 + 0.4 * 2)
    loss, logits = model.loss(x, labels)
    torch.testing.assert_close(loss, 0.7 * soft + 0.3 * hard, rtol=1e-12, atol=1e-12)
    assert torch.equal(logits, main) and torch.allclose(main, model(x))


def test_soft_targets_are_not_differentiated():
    model, labels = make(sml_weight=1.0).train(), torch.tensor([1, 5, 7])
    x = images()
    main, head, *_ = model.all_logits(x)
    tau = model.config.sml_temperature
    loss = F.kl_div((head / tau).log_softmax(-1), (main / tau).softmax(-1), reduction="batchmean")
    assert torch.autograd.grad(loss, main, retain_graph=True)[0].abs().max() > 0, "it would matter"
    model.loss(x, labels)[0].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_without_heads_it_is_cross_entropy():
    model, labels = create_model("stmixer_tiny").eval(), torch.tensor([3, 4])
    x = torch.randn(2, 3, 32, 32)
    loss, logits = model.loss(x, labels, 0.1)
    torch.testing.assert_close(loss, F.cross_entropy(model(x), labels, label_smoothing=0.1))
    assert torch.equal(logits, model.all_logits(x)[0])


@pytest.mark.parametrize("legacy", [True, False])
def test_heads_mix_samples_only_with_the_defect(legacy):
    model, x = make(legacy_sml_mixing=legacy).eval(), images()
    changed = x.clone()
    changed[1] = images(1)
    differ = [
        not torch.allclose(a[0], b[0]) for a, b in zip(model.all_logits(x), model.all_logits(changed), strict=True)
    ]
    assert differ == [False, legacy, legacy]


def test_inference_does_without_the_heads():
    with_heads, x = make().eval(), images()
    without = create_model("stmixer_tiny", image_size=16, depth=4).double().eval()
    without.load_state_dict(with_heads.state_dict(), strict=False)
    assert torch.equal(without(x), with_heads(x))
    assert not any(c.module.startswith("sml") for c in count(with_heads, x).operators)


@pytest.mark.parametrize("depth", [2, 4, 6, 8, 10])
def test_number_and_depth_of_heads(depth):
    with torch.device("meta"):
        model = create_model("stmixer_tiny", depth=depth, sml=True)
    expected = {2: [1], 4: [2, 1], 6: [3, 2, 1], 8: [3, 2, 1, 1], 10: [3, 2, 1, 1, 1]}
    assert [len(head.encoders) for head in model.sml] == expected[depth]


def test_bad_config():
    with pytest.raises(ValueError, match=r"downsample_times=3 must be 2 or 4"):
        create_model("stmixer_tiny", downsample_times=3)
    with pytest.raises(ValueError, match="embed_dim=60 must be a multiple of 8"):
        create_model("stmixer_tiny", embed_dim=60)
    with pytest.raises(ValueError, match=r"weights for 64 tokens, not 16: set image_size"):
        create_model("stmixer_tiny")(torch.randn(1, 3, 16, 16))
