"""What a recipe asks of a machine that has it not: one line, before anything is written."""

import os

import pytest
import torch

from spikevit.training import machine
from spikevit.training.machine import refuse_other_machine
from spikevit.training.recipe import TrainerRecipe
from spikevit.training.run import train

CPU = not torch.cuda.is_available() and not torch.backends.mps.is_available()
pytestmark = pytest.mark.skipif(not CPU, reason="this machine has a GPU")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "accelerator",
            "cuda",
            r"trainer\.accelerator='cuda' must be auto or cpu: there is none here that torch \S+ can",
        ),
        ("accelerator", "gpu", r"trainer\.accelerator='gpu' must be auto or cpu"),
        ("accelerator", "tpu", r"trainer\.accelerator='tpu' must be auto or cpu"),
        ("accelerator", "cdua", "unknown trainer.accelerator 'cdua'; did you mean cuda"),
        ("strategy", "ddpp", "unknown trainer.strategy 'ddpp'; did you mean ddp"),
        ("strategy", "fsdp", r"trainer\.strategy='fsdp' must be auto or ddp on a CPU"),
        ("precision", "16-mixd", "unknown trainer.precision '16-mixd'; did you mean 16-mixed"),
        ("precision", "16-mixed", r"trainer\.precision='16-mixed' must be 32-true or bf16-mixed on a CPU"),
        ("precision", "'16'", r"trainer\.precision='16' must be 32-true or bf16-mixed on a CPU"),
        (
            "devices",
            4096,
            rf"trainer\.devices=4096 must be at most {max(2, os.cpu_count())}: there are no more cores here",
        ),
    ],
)
def test_what_is_not_here(tmp_path, brief, shades, field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        train(tmp_path / "run", brief(f"trainer.{field}={value}"), data=shades(), progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists(), "the directory is free for another try"


def test_it_is_said_before_data_are_read(tmp_path, brief, monkeypatch):
    monkeypatch.setattr("spikevit.training.run.build", lambda *a, **k: pytest.fail("it read data"))
    with pytest.raises(ValueError, match="trainer.accelerator"):
        train(tmp_path / "run", brief("trainer.accelerator=cuda"))


def test_what_is_here(monkeypatch):
    refuse_other_machine(TrainerRecipe())
    refuse_other_machine(TrainerRecipe(accelerator="cpu", devices=2, strategy="ddp", precision="bf16-mixed"))
    kinds = {n: dict(e) for n, e in machine.pl.accelerators.AcceleratorRegistry.items()}
    kinds["cuda"]["accelerator"] = type("Two", (), {"is_available": lambda: True, "auto_device_count": lambda: 2})
    monkeypatch.setattr(machine.pl.accelerators, "AcceleratorRegistry", kinds)
    refuse_other_machine(TrainerRecipe(precision="16-mixed", devices=2, strategy="fsdp"))
    refuse_other_machine(TrainerRecipe(accelerator="gpu"))
    with pytest.raises(ValueError, match=r"trainer\.devices=8 must be at most 2: there are no more cuda devices here"):
        refuse_other_machine(TrainerRecipe(devices=8))
    with pytest.raises(ValueError, match=r"precision='16-mixed' must be 32-true or bf16-mixed on a CPU"):
        refuse_other_machine(TrainerRecipe(accelerator="cpu", precision="16-mixed"))


def test_a_run_of_before_goes_on_as_it_began(tmp_path, brief, shades, monkeypatch):
    """Lightning made bf16-mixed of 16-mixed on a CPU without a word: such a run can end, with one."""
    with monkeypatch.context() as before:
        before.setattr("spikevit.training.run.refuse_other_machine", lambda *a, **k: None)
        before.setattr("spikevit.training.run.test", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", brief("trainer.precision=16-mixed"), data=shades(), progress=False)
    with pytest.warns(UserWarning, match=r"trainer\.precision='16-mixed' is bf16-mixed on a CPU"):
        train(tmp_path / "run", data=shades(), progress=False)
    assert (tmp_path / "run" / "results.json").exists()
