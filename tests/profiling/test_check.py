"""The spike-driven check: what passes, and the reason for what does not."""

import pytest
import torch
from firing import firing, images
from torch import nn

from spikevit import count
from spikevit.profiling.check import Rule, check, load_rule, rules
from spikevit.profiling.counts import Counts


@pytest.fixture(scope="module")
def counted():
    """Counts of a tiny model, made once."""
    torch.manual_seed(0)
    made: dict[str, Counts] = {}

    def get(name: str) -> Counts:
        if name not in made:
            made[name] = count(firing(name), images(4).split(2))
        return made[name]

    return get


def reasons(counts: Counts, rule: str | Rule) -> dict[str, str]:
    """What fails: module -> reason."""
    rule = load_rule(rule) if isinstance(rule, str) else rule
    return {v.module: v.reason for v in check(counts, rule).verdicts if not v.passed}


# --- our models ------------------------------------------------------------------------------------------------------


def test_stmixer_is_asynchronous(counted):
    result = check(counted("stmixer_tiny"), load_rule("asynchronous"))
    assert result.passed and all(v.passed for v in result.verdicts)
    exempt = {v.module: v.reason for v in result.verdicts if "exempt" in v.reason}
    assert exempt == {
        "patch_embed.shortcut": "stem: exempt",
        "patch_embed.proj.0": "stem: exempt",
        "head": "head: exempt",
    }


def test_stmixer_without_exemptions(counted):
    strict = Rule("strict", "", ("binary", "power-of-two"))
    assert reasons(counted("stmixer_tiny"), strict) == {
        "patch_embed.shortcut": "the image: first convolution",
        "patch_embed.proj.0": "the image: first convolution",
        "head": "an average: real values",
    }
    assert list(reasons(counted("stmixer_tiny"), "accumulate-only")) == ["head"]


def test_sdt_accumulates_only(counted):
    """Membrane shortcuts, and a head behind neurons."""
    assert check(counted("sdt_tiny"), load_rule("accumulate-only")).passed
    assert set(reasons(counted("sdt_tiny"), "asynchronous").values()) == {
        "max pool on spikes: the largest may still come",
        "max pool on membrane potentials",
    }


def test_spikformer(counted):
    found = reasons(counted("spikformer_tiny"), "asynchronous")
    assert found["blocks.0.attn.proj_in"].startswith("sum of spikes, added by a shortcut: values up to 2")
    assert found["blocks.0.attn"] == "product of two activations: both must wait for each other"
    assert found["patch_embed.proj.2"] == "max pool on spikes: the largest may still come"
    assert "patch_embed.proj.1" not in found and "head" not in found
    accumulate = reasons(counted("spikformer_tiny"), "accumulate-only")
    assert "blocks.0.attn" not in accumulate and accumulate["head"].startswith("average of spikes: values up to")


def test_qkformer(counted):
    found = reasons(counted("qkformer_tiny"), "asynchronous")
    assert found["stages.2.0.attn"] == "product of two activations: both must wait for each other"
    assert found["patch_embed.1.proj.1"] == "max pool on membrane potentials"
    assert found["stages.0.0.attn.proj_in"].startswith("sum of spikes, added by a shortcut")
    assert "head" in reasons(counted("qkformer_tiny"), "accumulate-only")


def test_attention_is_gated_by_spikes(counted):
    """One binary operand is enough to accumulate."""
    verdicts = check(counted("spikformer_tiny"), load_rule("accumulate-only")).verdicts
    first, second = (v for v in verdicts if v.module == "blocks.0.attn")
    assert first.passed and first.operands == ("binary", "binary") and first.reason == ""
    assert second.passed and second.reason == "gated by the binary operand"
    assert "integer 0…" in " ".join(second.operands) and "· 0.125" in " ".join(second.operands)


def test_integer_spikes_allowed(counted):
    """Sums of spikes pass; Spikingformer's head on membrane potentials does not."""
    assert check(counted("spikformer_tiny"), load_rule("integer-spikes-allowed")).passed
    assert reasons(counted("spikingformer_tiny"), "integer-spikes-allowed") == {"head": "an average: real values"}


# --- plain models ----------------------------------------------------------------------------------------------------


class Spikes(nn.Module):
    """0 or 1, of anybody's making."""

    def forward(self, x):
        return (x > 0).to(x.dtype)


class Softmax(nn.Module):
    def forward(self, x):
        return x.flatten(1).softmax(-1)


CONV, FC = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2 * 4 * 4, 3)


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ([Spikes(), nn.MaxPool2d(2)], None),
        ([Spikes(), nn.AvgPool2d(2)], r"average pooling of spikes: values up to 4 · 0.25"),
        ([nn.ReLU(), nn.AvgPool2d(2)], "average pooling: real values"),
        ([nn.AdaptiveAvgPool2d(4)], "average pooling: real values"),
        ([nn.MaxPool2d(2)], "max pool on membrane potentials"),
        ([nn.MaxPool2d(2), Softmax()], "softmax: real values"),
        ([nn.Conv2d(2, 2, 2, stride=2)], "no neurons behind the convolution before it"),
        ([nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 32)], "no neurons behind the linear map before it"),
        ([nn.MaxPool2d(2), nn.ReLU()], "real values, made by relu"),
    ],
)
def test_what_comes_before_a_linear_map(between, expected):
    torch.manual_seed(1)
    model = nn.Sequential(CONV, *between, nn.Flatten(), FC)
    for layer in (m for m in model if isinstance(m, (nn.Conv2d, nn.Linear))):
        layer.reset_parameters()  # they were made when this file was read, with any seed
    found = reasons(count(model, torch.randn(8, 1, 8, 8)), "accumulate-only")
    assert found.get(f"{len(model) - 1}") == expected


class Shortcut(nn.Module):
    """x + f(x), with a batch norm on the sum."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.bn = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.bn(x + (self.fc(x) > 0))


def test_batch_norm_that_cannot_fold():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), Spikes(), Shortcut()).eval()
    reason = "batch norm on what no convolution or linear map made: it cannot fold into weights"
    assert reasons(count(model, torch.randn(4, 8)), "accumulate-only") == {"3.bn": reason}


class OverTime(nn.Module):
    """Averages spikes over time inside the network."""

    class Config:
        time_steps = 3

    config = Config()

    def __init__(self):
        super().__init__()
        self.first, self.mean, self.last = nn.Linear(8, 8), nn.Identity(), nn.Linear(8, 2)
        self.mean.forward = lambda x: x.mean(0)

    def forward(self, x):
        x = (self.first(x).expand(3, -1, -1) > 0).float()
        return self.last((self.mean(x) > 0.5).float())


def test_average_over_time():
    assert reasons(count(OverTime(), torch.randn(4, 8)), "asynchronous") == {
        "mean": "average over time inside the network"
    }
    assert reasons(count(OverTime(), torch.randn(4, 8)), "accumulate-only") == {}


@torch.library.custom_op("spikevit_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


class Twice(nn.Module):
    def forward(self, x):
        return twice(x)


@pytest.mark.parametrize("rule", rules())
def test_an_unknown_operator_fails(rule):
    model = nn.Sequential(nn.Linear(8, 8), Spikes(), Twice())
    result = check(count(model, torch.randn(4, 8)), load_rule(rule))
    assert not result.passed
    (failed,) = [v for v in result.verdicts if not v.passed]
    assert (failed.module, failed.operator, failed.reason) == (
        *("2", "spikevit_test::twice", "an operator this check does not know"),
    )


def test_an_image_may_be_pooled():
    counts = count(nn.Sequential(nn.MaxPool2d(2), CONV, Spikes()), torch.randn(2, 1, 8, 8))
    assert check(counts, load_rule("asynchronous")).passed


class Codes(nn.Module):
    """1, 2, 4 or nothing."""

    def forward(self, x):
        return torch.exp2((x * 2).round().clamp(0, 2)) * (x > -0.5)


def test_power_of_two_codes():
    counts = count(nn.Sequential(nn.Linear(8, 64), Codes(), nn.Linear(64, 2)), torch.randn(9, 8) * 3)
    assert counts.operators[1].operands[0].kind.name == "power-of-two"
    assert check(counts, load_rule("accumulate-only")).passed
    assert reasons(counts, Rule("binary alone", "", ("binary",), ("stem",))) == {"2": "power-of-two, made by mul"}


# --- rules -----------------------------------------------------------------------------------------------------------


def test_rules_that_are_shipped():
    assert rules() == ["accumulate-only", "asynchronous", "integer-spikes-allowed"]
    for name in rules():
        rule = load_rule(name)
        assert rule.name == name and rule.about and "stem" in rule.exempt


def test_own_rule(tmp_path, counted):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "about: mine\noperands: [binary]\nexempt: [stem, head, blocks.0.attn.proj_in]\nforbid: [max pool]\n"
    )
    rule = load_rule(path)
    assert rule == Rule("mine", "mine", ("binary",), ("stem", "head", "blocks.0.attn.proj_in"), ("max pool",))
    assert load_rule(str(path)) == rule
    found = reasons(counted("spikformer_tiny"), rule)
    assert "blocks.0.attn.proj_in" not in found and "blocks.0.mlp.fc1" in found and "patch_embed.proj.3" in found
    path.write_text("operands: [binary, real, integer, power-of-two]\n")
    assert check(counted("qkformer_tiny"), load_rule(path)).passed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("about: nothing", "mine.yaml: Rule lacks operands"),
        ("[binary]", r"mine.yaml: Rule=\['binary'\] must be a mapping of name, about, operands, exempt, forbid"),
        ("operands: []", r"mine.yaml: operands=\(\) must be some of binary, power-of-two, integer, real"),
        ("operands: [binry]", "mine.yaml: unknown class of operands 'binry'; did you mean binary"),
        ("operands: [binary]\nforbids: [max pool]", "mine.yaml: unknown key 'forbids'; did you mean forbid"),
        (
            "operands: [binary]\nforbid: [max pol]",
            "mine.yaml: unknown thing to forbid 'max pol'; did you mean max pool",
        ),
        ("operands: binary", "operands='binary' must be a list"),
        ("operands: [binary]\nexempt: stem", "exempt='stem' must be a list"),
        ("operands: [binary\n", "mine.yaml is not a rule: while parsing"),
    ],
)
def test_own_rules_that_are_wrong(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_rule(tmp_path / "mine.yaml")


def test_unknown_rule():
    with pytest.raises(ValueError, match="unknown rule 'asynchronus'; did you mean asynchronous"):
        load_rule("asynchronus")
    with pytest.raises(ValueError, match="there is no rule none.yaml"):
        load_rule("none.yaml")


def test_as_plain_values(counted):
    import json

    result = check(counted("spikformer_tiny"), load_rule("accumulate-only")).to_dict()
    assert json.loads(json.dumps(result))["rule"] == "accumulate-only" and result["passed"] is False
    assert len(result["verdicts"]) == len(counted("spikformer_tiny").operators)
