"""The spike budget: the penalty by hand, and trainings that end at their target."""

import math

import pytest
import torch
from torch import nn

from spikevit import create_model
from spikevit.neurons import ExpG, ExpGIF, Staircase
from spikevit.neurons.staircase import spike_count
from spikevit.training.budget import Budget
from spikevit.training.recipe import Recipe, SpikesRecipe, load_recipe
from spikevit.training.run import build

CODE = ExpG(2, 1)  # c(k) = 0, 1, 1, 2


class Net(nn.Module):
    """Two layers of neurons, of 2 and 4 channels, that get x and 2x; θ = 3, so that Δ = 1."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Staircase(CODE, 3.0), Staircase(CODE, 3.0)

    def forward(self, x):
        return self.first(x).sum() + self.second(2 * x.repeat(1, 2)).sum()


def penalty(target: float, per: str = "network", epoch: float = 10, x=None, **options):
    net = Net()
    x = torch.tensor([[0.5, 1.25]], requires_grad=True) if x is None else x
    with Budget(net, SpikesRecipe(target=target, per=per, **{"weight": 1.0, **options})) as budget:
        net(x)
    return budget.penalty(epoch), x, net


# c̄ of the first layer: c̄(0.5) = 0.5, c̄(1.25) = 1; of the second: c̄(1) = 1, c̄(2.5) = 1.5, twice.
FIRST, SECOND = (0.5 + 1) / 2, (1 + 1.5) / 2
WHOLE = (2 * FIRST + 4 * SECOND) / 6


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_value_by_hand(weight):
    value, *_ = penalty(0.5, weight=weight)
    assert value.item() == pytest.approx(weight * (WHOLE / 0.5 - 1))
    value, *_ = penalty(0.5, per="layer", weight=weight)
    assert value.item() == pytest.approx(weight * ((FIRST / 0.5 - 1) + (SECOND / 0.5 - 1)) / 2)
    value, *_ = penalty(1.0, per="layer", weight=weight)  # the first layer is below: it does not pay for the second
    assert value.item() == pytest.approx(weight * (SECOND - 1) / 2)
    assert penalty(1.1, weight=weight)[0].item() == 0 < penalty(1.1, per="layer", weight=weight)[0].item()


def test_gradient_by_hand():
    """Slopes of c̄ at 0.5, 1.25, 1, 2.5: 1, 0, 0 (that to the right), 1; the second layer's input is 2x, twice."""
    value, x, net = penalty(0.5)
    value.backward()
    assert x.grad.tolist()[0] == pytest.approx([1 / 6 / 0.5, 2 * 2 * 1 / 6 / 0.5])
    # u = x/Δ, Δ = θ/3: ∂u/∂θ = −u/θ where the slope is not 0
    assert net.first.threshold.grad.item() == pytest.approx(-0.5 / 3 / 6 / 0.5)
    assert net.second.threshold.grad.item() == pytest.approx(-2 * 2.5 / 3 / 6 / 0.5)
    value, x, net = penalty(2.0)
    value.backward()
    assert x.grad.abs().max() == 0 and net.first.threshold.grad.item() == 0  # below the target


def test_at_whole_codes_it_is_the_number_of_spikes():
    """c̄(k) = c(k): what the neurons will fire, exactly."""
    x = torch.randint(0, 4, (50, 2)).float()
    value, *_ = penalty(1e-3, per="layer", x=x)
    counts = [float(ExpGIF(3.0, CODE).fire(f * x).sum(0).mean()) for f in (1, 2)]
    assert value.item() == pytest.approx(sum(c / 1e-3 - 1 for c in counts) / 2, rel=1e-5)
    assert float(spike_count(x, CODE).float().mean()) == pytest.approx(counts[0])


def test_expected_count_of_the_neurons_is_used(monkeypatch):
    calls = []
    monkeypatch.setattr(Staircase, "expected_count", lambda self, x: (calls.append(self), x * 0 + 7.0)[1])
    value, _, net = penalty(1.0)
    assert value.item() == pytest.approx(6) and calls == [net.first, net.second]


@pytest.mark.parametrize(
    ("start", "ramp", "shares"),
    [
        (0, 1, {0: 0, 0.25: 0.25, 1: 1, 5: 1}),
        (0, 0, {0: 1, 3: 1}),
        (2, 4, {0: 0, 2: 0, 3: 0.25, 5: 0.75, 6: 1, 9: 1}),
        (2, 0, {0: 0, 1.99: 0, 2: 1}),
    ],
)
def test_ramp(start, ramp, shares):
    for epoch, share in shares.items():
        value, *_ = penalty(0.5, epoch=epoch, start_epoch=start, ramp_epochs=ramp)
        assert value.item() == pytest.approx(share * (WHOLE / 0.5 - 1)), epoch


def test_of_the_last_forward_only():
    """Counts do not add up over steps, hooks go with the context, and outside of it nothing is counted."""
    net, x = Net(), torch.tensor([[0.5, 1.25]])
    budget = Budget(net, SpikesRecipe(target=0.5, weight=1.0))
    for images in (torch.full((3, 2), 9.0), x):
        with budget:
            net(images)
    assert budget.penalty(9).item() == pytest.approx(WHOLE / 0.5 - 1)
    assert not net.first._forward_hooks
    net(10 * x)
    assert budget.penalty(9).item() == pytest.approx(WHOLE / 0.5 - 1)
    with pytest.raises(AttributeError), budget:
        net("no tensor")
    assert not net.first._forward_hooks  # also behind an error


def test_every_neuron_of_a_model_is_counted():
    model = create_model("ge2mst_tiny", image_size=16)
    with Budget(model, SpikesRecipe(target=1e-6, weight=1.0)) as budget:
        model(torch.randn(2, 3, 16, 16))
    assert len(budget.counts) == sum(isinstance(m, Staircase) for m in model.modules())
    value = budget.penalty(9)
    value.backward()
    thresholds = [m.threshold.grad for m in model.modules() if isinstance(m, Staircase)]
    assert all(g is not None for g in thresholds) and any(g.abs() > 0 for g in thresholds)


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), lambda: create_model("spikformer_tiny")])
def test_no_staircases(make):
    with pytest.raises(ValueError, match="spikes.target=1.0 must be left out: it is for models with staircase neurons"):
        Budget(make(), SpikesRecipe(target=1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("spikes.target=0", "spikes.target=0 must be a number above 0"),
        ("spikes.target=-1", "spikes.target=-1 must be a number above 0"),
        ("spikes.target=.nan", "spikes.target=nan must be a number above 0"),
        ("spikes.per=x", "unknown spikes.per 'x'"),
        ("spikes.start_epoch=-1", "spikes.start_epoch=-1 must be a whole number of at least 0"),
        ("spikes.ramp_epochs=-1", "spikes.ramp_epochs=-1 must be a whole number of at least 0"),
        ("spikes.targe=1", "unknown key 'spikes.targe'; did you mean spikes.target"),
    ],
)
def test_recipes(change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("ge2mst_digits", [change])


def test_a_recipe_says_it():
    recipe = load_recipe("ge2mst_digits", ["spikes.target=0.5", "spikes.per=layer", "spikes.weight=2"])
    assert recipe.spikes == SpikesRecipe(target=0.5, per="layer", weight=2.0) and Recipe().spikes.target is None


def test_a_training_step_pays():
    """The loss of a step is the model's and the penalty; without a target there is none."""
    from spikevit.training.module import Classifier

    losses = {}
    for target in (None, 0.01):
        recipe = load_recipe(
            "ge2mst_digits", [] if target is None else [f"spikes.target={target}", "spikes.ramp_epochs=0"]
        )
        model, data = build(recipe)
        module = Classifier(recipe, model, data)
        module._trainer = Trainer()
        module.log = lambda *_, **__: None
        batch = data.train.images[:16], data.train.labels[:16]
        losses[target] = module.training_step(batch, 0).item()
        if target:
            assert math.isclose(losses[target] - losses[None], module.budget.penalty(0).item(), rel_tol=1e-3)
    assert losses[0.01] > losses[None] + 1


class Trainer:
    """What a step asks its trainer."""

    world_size, global_rank, current_epoch, global_step, num_training_batches = 1, 0, 0, 0, 10
    barebones = False


# --- trained ---------------------------------------------------------------------------------------------------------


def trained_rate(target: float | None, x, labels) -> tuple[float, float]:
    """(spikes per neuron, accuracy) of a small network of staircases after training under the budget."""
    torch.manual_seed(0)
    code = ExpG(4, 1)
    model = nn.Sequential(
        *(nn.Linear(64, 64), nn.BatchNorm1d(64), Staircase(code, 2.0)),
        *(nn.Linear(64, 48), nn.BatchNorm1d(48), Staircase(code, 2.0)),
        nn.Linear(48, 10),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    budget = Budget(model, SpikesRecipe(target=target or 1000.0, weight=4.0))  # beyond all codes: it costs nothing
    epochs = 14
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 + math.cos(math.pi * epoch / epochs)) / 2
        for batch in torch.randperm(len(x)).split(64):
            with budget:
                loss = nn.functional.cross_entropy(model(x[batch]), labels[batch])
            optimizer.zero_grad()
            (loss + budget.penalty(epoch)).backward()
            optimizer.step()
    model.eval()
    spikes = cells = 0
    with torch.no_grad():
        out = x
        for m in model:
            if isinstance(m, Staircase):
                fired = ExpGIF.from_staircase(m).fire(out)  # the neurons themselves, not their expectation
                spikes, cells = spikes + int(fired.sum()), cells + out.numel()
            out = m(out)
        return spikes / cells, float((out.argmax(-1) == labels).double().mean())


def test_trainings_end_at_their_target():
    from spikevit.data import load_data, normalise

    data = load_data("digits", image_size=8)
    x, labels = normalise(data.train.images, data.info).flatten(1), data.train.labels
    free, accuracy = trained_rate(None, x, labels)
    assert free > 0.5 and accuracy > 0.95
    for share in (0.6, 0.3):
        rate, accuracy = trained_rate(share * free, x, labels)
        assert rate == pytest.approx(share * free, rel=0.1)
        assert accuracy > 0.9
