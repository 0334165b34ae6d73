"""A locale that knows no letters beyond ASCII: every file is UTF-8 all the same, and every verb answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spikevit

SCRIPT = """
import os, sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module="spikevit")
import torch
torch.set_num_threads(1)
from spikevit.cli.main import main
small = ["model.config.embed_dim=16", "model.config.num_heads=2", "model.config.depth=1", "model.time_steps=1"]
short = [*small, "schedule.epochs=1", "schedule.warmup_epochs=0", "data.batch_size=256"]
run = "one"
best = run + "/best.safetensors"
for words in (
    ["doctor"],
    ["models", "ge2mst_tiny"],
    ["train", "digits", *short, "--quiet", "--no-report", "--out", run],
    ["report", run, "--images", "64", "--count-images", "2"],
    ["eval", best, "--curve", "c.csv", "--count-images", "1"],
    ["profile", best, "--images", "2", "--json", "p.json", "--csv", "p.csv"],
    ["check", best, "--images", "2", "--rule", "accumulate-only", "--all"],
    ["check", "spikformer_tiny", "--images", "2", "--rule", "my.yaml"],
    ["eval", os.fsdecode("\\u00e9".encode()) + ".safetensors"],
):
    print(">", words[0], main(words))
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}


@pytest.mark.parametrize("locale", [ASCII, LATIN], ids=["ascii", "latin-1"])
def test_every_verb_in_another_locale(tmp_path, locale):
    """Nothing of ours is opened in the encoding of the locale; Python says where (EncodingWarning)."""
    (tmp_path / "my.yaml").write_text(
        "about: “mine”, µJ\noperands: [binary, power-of-two, integer, real]\n", encoding="utf-8"
    )
    path = {"PYTHONPATH": str(Path(spikevit.__file__).parents[1]), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    command = [sys.executable, "-X", "warn_default_encoding", "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | path | locale, capture_output=True)
    out, err = done.stdout.decode("latin-1"), done.stderr.decode("latin-1")
    assert done.returncode == 0, err
    statuses = [line.split()[1:] for line in out.splitlines() if line.startswith("> ")]
    wanted = ["doctor 0", "models 0", "train 0", "report 0", "eval 0", "profile 0", "check 1", "check 0", "eval 2"]
    assert [" ".join(words) for words in statuses] == wanted, err
    assert "Traceback" not in err and err.count("spikevit: ") == 1, err
    report = (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    assert "µJ" in report and "±" in report
