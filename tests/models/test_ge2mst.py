"""Ge²mS-T: sizes, and what training costs, which does not depend on T."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from spikevit import create_model, record_spikes
from spikevit.attention import GroupwiseSSA
from spikevit.models.ge2mst import SeparableConv
from spikevit.neurons import LIF, ExpG, Staircase
from spikevit.profiling.calibrate import calibrate

# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions"), [("ge2mst_t", 5), ("ge2mst_s", 15), ("ge2mst_b", 30), ("ge2mst_32", 3), ("ge2mst_tiny", 0.16)]
)
def test_sizes(name, millions):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.12)
    c = model.config
    large = name in ("ge2mst_t", "ge2mst_s", "ge2mst_b")
    assert (c.num_classes, c.image_size, model.stride) == ((1000, (224, 224), 32) if large else (10, (32, 32), 4))
    maps = []
    for stage in model.stages:
        stage[0].register_forward_pre_hook(lambda _, args: maps.append(args[0].shape[2]))
    assert model(torch.empty(2, 3, *c.image_size, device="meta")).shape == (2, c.num_classes)
    assert maps == ([56, 28, 14, 7] if large else [32, 16, 8])


def test_structure():
    """Convolution early, attention late; one scale for half of the heads each; neurons in front of every product."""
    with torch.device("meta"):
        model = create_model("ge2mst_t")
    kinds = [{type(block.attn) for block in stage} for stage in model.stages]
    assert kinds == [{SeparableConv}, {SeparableConv}, {GroupwiseSSA}, {GroupwiseSSA}]
    assert [len(stage) for stage in model.stages] == [1, 2, 5, 1]
    assert {block.attn.windows for block in model.stages[2]} == {(7, 14)}
    assert model.stages[3][0].attn.windows == (7, 0) and model.stages[3][0].attn.heads == 384 // 32
    assert sum(isinstance(m, Staircase) for m in model.modules()) == 50
    assert not any(isinstance(m, LIF) for m in model.modules())
    assert not model.time_axis and not model.streaming


def test_head_sums_and_divides_once():
    """Logits are the mean of the head over tokens."""
    model = create_model("ge2mst_tiny", image_size=16).eval()
    seen = []
    model.head.register_forward_hook(lambda _m, _args, out: seen.append(out))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(x), seen[0][0].flatten(1, 2).mean(1))


# --- codes -----------------------------------------------------------------------------------------------------------

LEVELS = {1: 1, 2: 3, 4: 15, 8: 30, 16: 60, 64: 240}


@pytest.mark.parametrize("time_steps", LEVELS)
def test_code_of_time_steps(time_steps):
    with torch.device("meta"):
        model = create_model("ge2mst_tiny", time_steps=time_steps)
    assert {m.code for m in model.modules() if isinstance(m, Staircase)} == {ExpG.of(time_steps)}
    assert ExpG.of(time_steps).levels == LEVELS[time_steps]
    assert model.activation_bits == LEVELS[time_steps].bit_length()


@pytest.mark.parametrize("time_steps", [5, 6, 7, 9, 63])
def test_time_steps_that_make_no_groups(time_steps):
    with pytest.raises(ValueError, match=f"time_steps={time_steps} above 4 must be a multiple of 4, such as"):
        create_model("ge2mst_tiny", time_steps=time_steps)


def test_code_option():
    with torch.device("meta"):
        model = create_model("ge2mst_tiny", code=[2, 3])
    assert {m.code for m in model.modules() if isinstance(m, Staircase)} == {ExpG(2, 3)}
    assert model.config.code == (2, 3) and model.activation_bits == 4
    with pytest.raises(ValueError, match="ExpG: steps=0"):
        create_model("ge2mst_tiny", code=(0, 3))
    with pytest.raises(ValueError, match="more than the 65535"):
        create_model("ge2mst_tiny", code=(16, 2))


@pytest.mark.parametrize("field", ["depths", "mixers", "strides", "windows"])
def test_stages_have_one_entry_each(field):
    entry = {"mixers": "conv", "windows": (2,)}.get(field, 1)
    with pytest.raises(ValueError, match=rf"{field}=.* must have one entry for each stage of widths"):
        create_model("ge2mst_tiny", **{field: (entry,)})


def test_wrong_words():
    with pytest.raises(ValueError, match="unknown stem 'strided2'"):
        create_model("ge2mst_tiny", stem="strided2")
    with pytest.raises(ValueError, match="unknown mixer 'gw_sa'; did you mean gw_ssa"):
        create_model("ge2mst_tiny", mixers=("conv", "conv", "gw_sa"))
    with pytest.raises(ValueError, match="are larger than the grid of 4 × 4 tokens"):
        create_model("ge2mst_tiny", image_size=16, windows=((), (), (5, 0)))


# --- what training costs ---------------------------------------------------------------------------------------------


class Operators(TorchDispatchMode):
    """How often each operator runs, on what shapes."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        shapes = tuple(tuple(a.shape) for a in args if isinstance(a, torch.Tensor))
        self.calls[str(func), shapes] += 1
        return func(*args, **(kwargs or {}))


def step_cost(**config) -> tuple[Counter, int, int]:
    """Of one step of training: operators, multiplications, bytes of the tensors kept for backward."""
    torch.manual_seed(0)
    model, x = create_model("ge2mst_tiny", image_size=16, **config).train(), torch.randn(4, 3, 16, 16)
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)  # so that no address is used twice
        return tensor

    alive: list = []
    with FlopCounterMode(display=False) as flops, Operators() as operators:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss, _ = model.loss(x, torch.arange(4))
        loss.backward()
    return operators.calls, flops.get_total_flops(), sum(kept.values())


def test_training_costs_the_same_for_every_t():
    costs = {t: step_cost(time_steps=t) for t in LEVELS}
    calls, flops, kept = costs[1]
    assert sum(calls.values()) > 500 and flops > 1e6 and kept > 1e5
    for t, other in costs.items():
        assert other == (calls, flops, kept), t


def test_direct_training_does_not():
    """The same network with leaky neurons: work behind the stem, and memory, are T times as much."""
    (_, flops, kept), (_, flops_4, kept_4) = (step_cost(time_steps=t, neuron={"kind": "lif"}) for t in (1, 4))
    assert 3.5 < flops_4 / flops < 4 and 3.3 < kept_4 / kept < 4.1
    _, expg_flops, expg_kept = step_cost(time_steps=4)
    assert expg_flops == flops and expg_kept < 1.1 * kept


# --- variants --------------------------------------------------------------------------------------------------------


def lively(**config) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("ge2mst_tiny", image_size=16, **config).double()
    model = calibrate(model, torch.randn(8, 3, 16, 16, dtype=torch.float64))
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.bias.data += 0.5
    return model


def test_leaky_neurons_have_a_time_axis():
    model = lively(neuron={"kind": "lif"}, time_steps=3)
    assert model.time_axis and model.streaming and not any(isinstance(m, Staircase) for m in model.modules())
    frames = torch.randn(3, 2, 3, 16, 16, dtype=torch.float64)
    whole, state = model(frames, per_step=True), None
    assert whole.shape == (3, 2, 10)
    for x_t, logits in zip(frames, whole, strict=True):
        logits_t, state = model.step(x_t, state)
        torch.testing.assert_close(logits_t, logits, rtol=0, atol=1e-9)
    spikes = record_spikes(model, frames)
    assert all(s.shape[:2] == (3, 2) and set(s.unique().tolist()) <= {0.0, 1.0} for s in spikes.values())
    silent = [name for name, s in spikes.items() if not s.any()]
    assert not silent


def test_staircase_network_has_none():
    model, x = lively(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for name, codes in record_spikes(model, x).items():
        assert codes.shape[:2] == (1, 2) and codes.dtype == torch.uint8 and codes.unique().numel() > 2, name
    with pytest.raises(ValueError, match="step: ge2mst_tiny does not stream"):
        model.step(x)
    with pytest.raises(ValueError, match="per_step=True: ge2mst_tiny has no common axis of time steps"):
        model(x, per_step=True)
    with pytest.raises(ValueError, match="ge2mst_tiny has no time axis and takes images, not frames"):
        model(x[None])


@pytest.mark.parametrize("kind", ["expg", "lif"])
def test_masks_in_place_of_products(kind):
    """gw_qk: no product of two activations is left; the masks fire once, whatever the code of the others."""
    mixers, windows = ("conv", "gw_qk", "gw_qk"), ((), (2,), (2, 0))
    model = lively(neuron={"kind": kind}, mixers=mixers, windows=windows, time_steps=4)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    masks = {n: s for n, s in record_spikes(model, x).items() if "attn_lif" in n}
    steps = 1 if kind == "expg" else 4
    assert len(masks) == 1 + 2 * 2 and all(len(s) == steps and s.max() <= 1 for s in masks.values())
    model.train()
    with Operators() as operators:
        model(x).sum().backward()
    assert not any("bmm" in name for name, _ in operators.calls)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("mixer", ["ssa", "qk_token", "qk_channel", "sdsa", "ms_token"])
def test_other_mixers(mixer):
    model = create_model("ge2mst_tiny", image_size=16, mixers=("conv", "conv", mixer), windows=((), (), ()))
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_backends_are_one_network():
    """The fused staircase and its specification: the same logits and gradients to the bit."""
    from spikevit.neurons import set_backend

    x = torch.randn(4, 3, 16, 16)
    results = []
    for backend in ("fused", "plain"):
        torch.manual_seed(0)
        model = set_backend(create_model("ge2mst_tiny", image_size=16), backend)
        logits = model(x)
        logits.logsumexp(-1).sum().backward()
        results.append([logits.detach(), *(p.grad for n, p in model.named_parameters() if "threshold" not in n)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
