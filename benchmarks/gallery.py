"""The pictures of docs/gallery.md, made by the commands that stand beside them there: four runs on digits, ten minutes.

    python benchmarks/gallery.py

Runs are kept in runs/gallery, and gone on with where they are there. Needs playwright and chromium for the two pages.
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import sync_playwright

from spikevit.cli.main import main as spikevit
from spikevit.files import write_atomically

IMAGES = Path(__file__).parents[1] / "docs" / "images"
RUNS = Path("runs") / "gallery"


def run(verb: str, *words: object) -> None:
    print(f"$ spikevit {verb} {' '.join(map(str, words))}", flush=True)
    if status := spikevit([verb, *map(str, words)]):
        raise SystemExit(status)


def trained(recipe: str) -> Path:
    directory = RUNS / recipe
    if not (directory / "results.json").exists():
        going_on = ["--resume", directory] if (directory / "resume.ckpt").exists() else [recipe, "--out", directory]
        run("train", *going_on, "--quiet")
    return directory


def screenshot(page: Path, picture: Path, width: int = 1100, height: int = 600) -> None:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": height})
        shown.goto(page.absolute().as_uri())
        write_atomically(picture, lambda path: Path(path).write_bytes(shown.screenshot()))
        browser.close()


def main() -> None:
    for name in ("curve.svg", "halting.png", "plan.svg"):
        (IMAGES / name).unlink(missing_ok=True)  # no verb writes over a file
    plain, early, halting = map(trained, ("digits", "digits_exit", "digits_stas"))
    run("eval", early / "final.safetensors", "--plot", IMAGES / "curve.svg")
    run("eval", halting / "best.safetensors", "--maps", IMAGES / "halting.png")
    staircase = trained("ge2mst_digits")
    run("plan", staircase / "best.safetensors", "--plot", IMAGES / "plan.svg")
    page = RUNS / "comparison.html"
    run("report", plain, early, halting, staircase, "--out", page)
    screenshot(page, IMAGES / "comparison.png")


if __name__ == "__main__":
    main()
