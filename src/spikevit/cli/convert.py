"""spikevit convert: a trained staircase network into spikes, with the certificate that nothing changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spikevit.cli.source import add_data, add_device, check_numbers, checkpoint_source, load
from spikevit.errors import inside

EXAMPLE = """examples:
  spikevit convert runs/demo-1/exact/best.safetensors
  spikevit convert best.safetensors --out snn.safetensors --certificate proof.json --code 'stages.0.*=2,5'
  spikevit convert --verify proof.json"""

SETTINGS = ("data", "root", "images", "batch_size")  # which images; a certificate remembers them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, images, and where to write."""
    parser.add_argument("checkpoint", nargs="?", help="a .safetensors file of spikevit with staircase neurons")
    add_data(parser)
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
    add_device(parser)
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
    from spikevit.checkpoint import model_writer, read_about
    from spikevit.cli.report import attempt
    from spikevit.conversion.certificate import relative, with_files
    from spikevit.conversion.convert import convert
    from spikevit.conversion.quantise import quantise
    from spikevit.files import refuse_existing, text_writer, write_together
    from spikevit.report.terminal import console

    check_numbers(args)
    checkpoint = Path(args.checkpoint)
    codes = dict(map(_code, args.code))
    stem = checkpoint.with_suffix("")
    reference = Path(f"{stem}-exact.safetensors") if args.exact else checkpoint
    out = Path(args.out or f"{stem}-spiking.safetensors")
    proof = Path(args.certificate or f"{stem}-certificate.json")
    new = {"--exact (it is called after the checkpoint)": reference} if args.exact else {}
    refuse_existing({**new, "--out": out, "--certificate": proof})
    about, model = read_about(checkpoint), load(args, checkpoint)
    source = checkpoint_source(args, checkpoint, model)
    kept = {key: value for key, value in about.items() if key in ("data", "recipe")}
    files: dict[Path, Any] = {}
    if args.exact:
        name, model = model.name, quantise(model)
        model.name = name
        files[reference] = model_writer(model, **kept)
    with inside(checkpoint):
        spiking, certificate = convert(model, list(source.batches()), codes=codes)
    files[out] = model_writer(spiking, **kept)
    settings = {name: getattr(args, name) for name in SETTINGS}
    names = {"reference": relative(reference, proof), "spiking": relative(out, proof)}
    certificate = with_files(certificate, **names, data=settings)
    files[proof] = text_writer(certificate.to_json())
    write_together(files)
    shown = console()
    shown.print(certificate)
    shown.print(f"Spiking model: {out}\nCertificate: {proof}", soft_wrap=True)
    if not args.no_report:
        in_run = (checkpoint.parent / "recipe.yaml").is_file() and {out.parent, proof.parent} == {checkpoint.parent}
        attempt(checkpoint.parent if in_run else out, args.root, args.device)
    return 0 if certificate.lossless else 1


def _verify(args: argparse.Namespace) -> int:
    from spikevit.conversion.certificate import files_of, load_certificate, verify
    from spikevit.report.terminal import console

    certificate = load_certificate(args.verify)
    files = files_of(certificate, args.verify)
    reference, spiking = load(args, files.reference), load(args, files.spiking)
    settings = vars(files.data) | ({"root": args.root} if args.root else {})
    source = checkpoint_source(argparse.Namespace(**settings), files.reference, reference)
    shown = console()
    with inside(f"{args.verify}, of {files.reference} and {files.spiking}"):
        again = verify(certificate, reference, spiking, source.batches())
    shown.print(again)
    shown.print(f"{args.verify} holds: same models, same images, same figures.", soft_wrap=True)
    shown.print(f"Checked: {files.reference} and {files.spiking}, on {source.about}.", soft_wrap=True)
    return 0 if again.lossless else 1


def _code(text: str) -> tuple[str, tuple[int, int]]:
    layer, _, numbers = text.partition("=")
    try:
        steps, groups = map(int, numbers.split(","))
    except ValueError:
        raise ValueError(f"--code {text!r} must read LAYER=n,G, as 'stages.0.*=2,5'") from None
    return layer, (steps, groups)
