"""spikevit convert: a trained staircase network into spikes, with the certificate that nothing changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from spikevit.cli.source import check_numbers, checkpoint_source

EXAMPLE = """examples:
  spikevit convert runs/demo-1/exact/best.safetensors
  spikevit convert best.safetensors --out snn.safetensors --certificate proof.json --code 'stages.0.*=2,5'
  spikevit convert --verify proof.json"""

SETTINGS = ("data", "root", "images", "batch_size")  # which images; a certificate remembers them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, images, and where to write."""
    parser.add_argument("checkpoint", nargs="?", help="a .safetensors file of spikevit with staircase neurons")
    parser.add_argument("--data", help="data set (default: the checkpoint's own)")
    parser.add_argument("--root", help="folder of the data set, where it is not that of training")
    parser.add_argument("--images", type=int, help="how many, from the first (default: all test images)")
    parser.add_argument("--batch-size", type=int, default=64, help="default: 64")
    parser.add_argument("--exact", action="store_true", help="put weights on 8-bit grids first, without fine-tuning")
    parser.add_argument(
        "--code", action="append", default=[], metavar="LAYER=n,G", help="another code of the same levels; may repeat"
    )
    parser.add_argument("--out", help="the spiking model (default: beside the checkpoint, …-spiking.safetensors)")
    parser.add_argument("--certificate", help="the certificate (default: beside it, …-certificate.json)")
    parser.add_argument(
        "--no-report", action="store_true", help="do not write the report (of the run, or …-report.html)"
    )
    parser.add_argument("--verify", metavar="FILE", help="re-check a certificate and write nothing")


def run(args: argparse.Namespace) -> int:
    """Converts and certifies, or verifies; prints the certificate."""
    if args.verify:
        if args.checkpoint:
            raise ValueError("--verify FILE names the models itself: leave the checkpoint out")
        return _verify(args)
    if not args.checkpoint:
        raise ValueError("convert needs a checkpoint, or --verify with a certificate")
    return _convert(args)


def _convert(args: argparse.Namespace) -> int:
    from rich.console import Console

    from spikevit.checkpoint import load_model, read_about, save_model
    from spikevit.cli.report import attempt
    from spikevit.conversion.certificate import with_files
    from spikevit.conversion.convert import convert
    from spikevit.conversion.quantise import quantise

    console = Console(highlight=False)
    checkpoint = Path(args.checkpoint)
    codes = dict(map(_code, args.code))
    about, model = read_about(checkpoint), load_model(checkpoint)
    check_numbers(args)
    source = checkpoint_source(args, checkpoint, model)
    kept = {key: value for key, value in about.items() if key in ("data", "recipe")}
    stem = checkpoint.with_suffix("")
    out = Path(args.out or f"{stem}-spiking.safetensors")
    proof = Path(args.certificate or f"{stem}-certificate.json")
    for path in (out, proof):
        if path.exists():
            raise ValueError(f"{path} exists already and is not overwritten; name another with --out, --certificate")
    reference = checkpoint
    if args.exact:
        name, model = model.name, quantise(model)
        model.name = name
        reference = Path(f"{stem}-exact.safetensors")
    spiking, certificate = convert(model, list(source.batches()), codes=codes)
    if args.exact:
        save_model(model, reference, **kept)
    save_model(spiking, out, **kept)
    settings = {name: getattr(args, name) for name in SETTINGS}
    certificate = with_files(certificate, reference=str(reference), spiking=str(out), data=settings)
    certificate.save(proof)
    console.print(certificate)
    console.print(f"Spiking model: {out}\nCertificate: {proof}", soft_wrap=True)
    if not args.no_report:
        in_run = (checkpoint.parent / "recipe.yaml").is_file() and {out.parent, proof.parent} == {checkpoint.parent}
        attempt(checkpoint.parent if in_run else out, args.root)
    return 0 if certificate.lossless else 1


def _verify(args: argparse.Namespace) -> int:
    from rich.console import Console

    from spikevit.checkpoint import load_model
    from spikevit.conversion.certificate import load_certificate, verify

    certificate = load_certificate(args.verify)
    files = certificate.files
    if not files:
        raise ValueError(f"{args.verify} does not say which files it is of; use spikevit.conversion.certificate.verify")
    reference, spiking = load_model(files["reference"]), load_model(files["spiking"])
    settings = files["data"] | ({"root": args.root} if args.root else {})
    source = checkpoint_source(argparse.Namespace(**settings), files["reference"], reference)
    again = verify(certificate, reference, spiking, source.batches())
    console = Console(highlight=False)
    console.print(again)
    console.print(f"{args.verify} holds: same models, same images, same figures.", soft_wrap=True)
    return 0 if again.lossless else 1


def _code(text: str) -> tuple[str, tuple[int, int]]:
    layer, _, numbers = text.partition("=")
    try:
        steps, groups = map(int, numbers.split(","))
    except ValueError:
        raise ValueError(f"--code {text!r} must read LAYER=n,G, as 'stages.0.*=2,5'") from None
    return layer, (steps, groups)
