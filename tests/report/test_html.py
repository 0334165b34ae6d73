"""The report in a browser: complete, quiet, offline, usable by keyboard, in light and dark, on phones and on paper."""

import base64
import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spikevit import count, create_model, load_model, profile, save_model
from spikevit.checkpoint import read_about
from spikevit.cli.main import main
from spikevit.data import load_data, normalise
from spikevit.profiling.calibrate import calibrate
from spikevit.profiling.check import check, load_rule
from spikevit.report import svg
from spikevit.report.html import write_report
from spikevit.report.look import look
from spikevit.report.sections.base import labels, wilson

TITLES = ["Overview", "Curves", "What it sees", "What it costs", "Conversion"]
SHORT = ["schedule.epochs=2", "schedule.warmup_epochs=0", "data.batch_size=256", "optimizer.lr=0.01"]
TINY = ["model.config.embed_dim=16", "model.config.num_heads=2", "model.config.depth=1", "model.time_steps=3", *SHORT]
STAIRS = ["model.config.widths=[8,8,16]", "model.config.depths=[1,1,1]", "model.config.head_width=8", *SHORT]
NASTY = ["<script>window.hit=1", "<img src=x onerror=window.hit=1>", "a $x^2$ \"quoted\" & 'so'"]


def run(*argv) -> None:
    assert main([str(word) for word in argv]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A staircase network, trained and converted; three spiking ones, two of them adaptive; a comparison."""
    where = tmp_path_factory.mktemp("runs")
    run("train", "ge2mst_digits", *STAIRS, "--quiet", "--out", where / "ge2mst")
    main(["convert", str(where / "ge2mst" / "best.safetensors"), "--images", "40"])  # status 1: a layer may be dead
    stas = [word for word in TINY if "time_steps" not in word]
    run("train", "digits_stas", *stas, "halting.beta=3", "--quiet", "--out", where / "stas")
    run("train", "digits_exit", *TINY, "early_exit.tolerance=0.3", "--quiet", "--out", where / "exit")
    run("train", "digits_dynamic", *TINY, "time_steps.target=2", "--quiet", "--no-report", "--out", where / "dynamic")
    run("report", where / "exit", where / "ge2mst", where / "dynamic", "--out", where / "comparison.html")
    return where


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser):
    """Opens a report; what went wrong is checked at the end: no console message, no request."""
    contexts, wrong = [], []

    def open_page(path: Path, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if not _own(request.url, path) else None)
        page.goto(path.resolve().as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def _own(url: str, path: Path) -> bool:
    return url == path.resolve().as_uri() or url.startswith(("data:", "blob:"))


@pytest.mark.parametrize("name", ["ge2mst/report", "stas/report", "exit/report", "comparison"])
def test_every_section_is_there(runs, show, name):
    path = runs / f"{name}.html"
    assert path.stat().st_size < 6_000_000
    page = show(path)
    titles = TITLES[:-1] if name in ("stas/report", "exit/report") else TITLES  # nothing empty: they were not converted
    assert page.locator("nav a").all_inner_texts() == titles
    assert page.locator("h2").all_inner_texts() == titles[1:] and page.locator("h1").count() == 1
    for section in page.locator("section").all():
        assert section.locator(".facts, .chart, table, .note").count(), section.get_attribute("id")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    used = page.evaluate('document.documentElement.outerHTML.match(/(?:href="|url\\()#[^")]+/g)')
    assert {re.sub(r".*#", "", one) for one in used} <= set(ids)
    assert page.evaluate("[...document.images].every((i) => i.alt.length > 3 && i.complete && i.naturalWidth > 0)")
    labels = page.locator(".drawing:has(svg)").evaluate_all("(drawings) => drawings.map((e) => e.ariaLabel)")
    assert len(labels) == page.locator(".drawing").count() > 2 and all(labels)


def test_what_each_kind_of_run_shows(runs, show):
    page = show(runs / "ge2mst" / "report.html")
    assert page.locator("h1").inner_text() == "ge2mst_tiny on digits"
    assert "codes differ on 40 images" in page.locator(".verdict").inner_text()
    assert "Shown is the network of spikes" in page.locator("#overview").inner_text()
    assert page.locator("#conversion .chart").count() == 2 and page.locator("#certificate-0 tbody tr").count() > 5
    page = show(runs / "stas" / "report.html")
    assert page.locator("h1").inner_text() == "spikformer_tiny with halting on digits"
    assert page.locator("img[alt^='Halting map']").count() == 3
    page = show(runs / "exit" / "report.html")
    assert page.locator("h1").inner_text() == "spikformer_tiny with early exit on digits"
    assert "Images by the time step at which they exit" in page.locator("#images").inner_text()
    page = show(runs / "comparison.html")
    assert page.locator("h1").inner_text() == "Comparison of 3 runs"
    assert "early_exit.tolerance" in page.locator("#recipes").inner_text()
    assert page.locator("#cost .chart").count() >= 2 and page.locator("[id^=steps-] tbody tr").count() > 5
    accuracies = page.locator("#runs tbody tr td:nth-child(2)").evaluate_all("(c) => c.map((e) => +e.dataset.value)")
    assert len(accuracies) == 3 and accuracies == sorted(accuracies, reverse=True)
    assert page.locator(".warning").count() == 0, "the same data set"


def test_figures_are_those_of_the_run(runs, show):
    page = show(runs / "exit" / "report.html")
    results = json.loads((runs / "exit" / "results.json").read_text())
    text = page.locator(".facts").inner_text()
    low, high = wilson(results["right"], results["total"])
    assert f"{results['accuracy']:.2%}" in text and f"95 %: {low:.1%} to {high:.1%}" in text
    assert f"{results['work']:.2f}" in text
    counts = page.locator("#confusion-0 tbody td").evaluate_all("(cells) => cells.map((c) => Number(c.dataset.value))")
    matrix = np.array(counts).reshape(10, 10)
    assert matrix.sum() == results["total"] and np.trace(matrix) == results["right"]
    data = load_data("digits", image_size=16)
    model, x = load_model(runs / "exit" / "final.safetensors"), normalise(data.test.images[:16], data.info)
    costs = profile(model, x.split(4))
    shown = dict(
        page.locator("#energy tbody tr").evaluate_all(
            "(r) => r.map((e) => [e.cells[0].firstChild.textContent, e.cells[1].dataset.value])"
        )
    )
    for name, cost in costs.costs.items():
        assert float(shown[name]) == pytest.approx(cost.energy.mj * 1e3, rel=1e-3)
    assert "model, not measurement" in page.locator("#energy caption").text_content()


def test_tables_sort_and_filter(runs, show):
    page = show(runs / "stas" / "report.html")
    table = page.locator("#layers-0")

    def column(i: int) -> list[float]:
        return table.locator(f"tbody tr:not([hidden]) td:nth-child({i + 1})").evaluate_all(
            "(cells) => cells.map((c) => Number(c.dataset.value))"
        )

    before, head = column(6), table.locator("thead th").nth(6)
    assert before != sorted(before, reverse=True)
    head.locator("button").click()
    assert column(6) == sorted(before, reverse=True) and head.get_attribute("aria-sort") == "descending"
    head.locator("button").press("Enter")
    assert column(6) == sorted(before) and head.get_attribute("aria-sort") == "ascending"
    table.locator("thead button").first.click()
    assert head.get_attribute("aria-sort") is None
    names = table.locator("tbody th").all_inner_texts()
    assert names == sorted(names, reverse=True)
    page.locator("[data-filter='layers-0']").fill("ATTN")
    assert table.locator("tbody tr:visible th").all_inner_texts() == [name for name in names if "attn" in name]
    page.locator("[data-filter='layers-0']").fill("")
    assert table.locator("tbody tr:visible").count() == len(names)


def _luminance(colour: str) -> float:
    parts = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(runs, show, scheme):
    """WCAG AA, 4.5, for everything that is read; the button turns one into the other."""
    page = show(runs / "ge2mst" / "report.html", color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    dark = _luminance(page.evaluate(background)) < 0.1
    assert dark == (scheme == "dark")
    for selector in (
        "body",
        "small",
        "nav a",
        ".facts dt",
        ".pass, .fail",
        "caption",
        ".tool",
        "figcaption",
        ".filter",
    ):
        for ink, paper in page.locator(selector).evaluate_all(
            """(elements) => elements.slice(0, 5).map((e) => {
                let behind = e;
                const clear = (one) => getComputedStyle(one).backgroundColor === "rgba(0, 0, 0, 0)";
                while (behind !== document.body && clear(behind)) behind = behind.parentElement;
                return [getComputedStyle(e).color, getComputedStyle(behind).backgroundColor];
            })"""
        ):
            a, b = sorted((_luminance(ink), _luminance(paper)))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (selector, ink, paper)
    ink = page.locator(".drawing text").first.evaluate("(e) => getComputedStyle(e).fill")
    assert (_luminance(ink) > 0.5) == dark
    page.locator("#theme").click()
    assert (_luminance(page.evaluate(background)) < 0.1) != dark


def test_keyboard_phone_and_print(runs, show):
    page = show(runs / "ge2mst" / "report.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#main"
    parts = page.locator("button, .tool, input, summary, .scroll, .drawing")
    assert parts.evaluate_all("(parts) => parts.every((e) => e.tabIndex >= 0)")
    named = "(parts) => parts.every((e) => e.ariaLabel || e.labels?.length || e.textContent.trim())"
    assert page.locator("button, input, a, summary").evaluate_all(named)
    for name in ("ge2mst/report", "comparison"):
        phone = show(runs / f"{name}.html", viewport={"width": 360, "height": 740})
        assert phone.evaluate("document.documentElement.scrollWidth") <= 360
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("[...document.querySelectorAll('details')].every((e) => e.open)")
    assert not page.locator("nav").is_visible() and page.locator(".tools:visible").count() == 0
    assert _luminance(page.evaluate("getComputedStyle(document.body).color")) < 0.1, "black on white"


CUT = """(texts) => texts.filter((e) => e.getClientRects().length).filter((e) => {
    const [box, own] = [e.ownerSVGElement.getBoundingClientRect(), e.getBoundingClientRect()];
    const sideways = own.left < box.left - 1 || own.right > box.right + 1;
    return sideways || own.top < box.top - 1 || own.bottom > box.bottom + 1;
}).map((e) => e.textContent)"""
PIXELS = """(texts) => texts.filter((e) => e.getClientRects().length)
    .map((e) => parseFloat(getComputedStyle(e).fontSize) * Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b))"""


@pytest.mark.parametrize("size", [{"width": 390, "height": 844}, {"width": 1100, "height": 900}])
@pytest.mark.parametrize("name", ["ge2mst/report", "exit/report", "comparison"])
def test_charts_and_captions_are_legible(runs, show, name, size):
    """At least 11 pixels, no label cut; captions fit the screen, where tables are wider they scroll."""
    page = show(runs / f"{name}.html", viewport=size)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    texts = page.locator(".drawing text")
    assert min(texts.evaluate_all(PIXELS)) >= 11 and texts.evaluate_all(CUT) == []
    rights = page.locator("caption span").evaluate_all("(s) => s.map((e) => e.getBoundingClientRect().right)")
    assert max(rights) <= size["width"]
    wide = "(boxes) => boxes.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.ariaLabel)"
    if size["width"] > 1000:
        assert page.locator(".scroll, .drawing").evaluate_all(wide) == []
        tops = page.locator("#curves .chart").evaluate_all("(f) => f.map((e) => e.getBoundingClientRect().top)")
        assert min(tops.count(top) for top in tops) > 1, "no chart is alone in its row"


def test_pictures_and_data_can_be_saved(runs, show):
    page = show(runs / "stas" / "report.html", color_scheme="dark", accept_downloads=True)
    figure = page.locator("#curves .chart").first

    def saved(selector: str) -> bytes:
        with page.expect_download() as download:
            figure.locator(selector).click()
        return Path(download.value.path()).read_bytes()

    drawing = saved("[data-save=svg]").decode()
    assert drawing.startswith("<svg") and "var(" not in drawing and "training" in drawing
    picture = Image.open(io.BytesIO(saved("[data-save=png]")))
    assert picture.width > 800 and len(np.unique(np.asarray(picture.convert("L")))) > 20, "something is drawn"
    rows = list(csv.DictReader(io.StringIO(saved("a.tool").decode())))
    with open(runs / "stas" / "metrics.csv", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert [float(row["value"]) for row in rows if row["series"] == "training"] == losses
    link = page.locator("#layers-0").locator("xpath=ancestor::div[@class='table']").locator("a.tool")
    text = base64.b64decode(link.get_attribute("href").split(",")[1]).decode()
    assert len(list(csv.DictReader(io.StringIO(text)))) == page.locator("#layers-0 tbody tr").count()


@pytest.fixture(scope="module")
def folder_run(tmp_path_factory) -> Path:
    """A run on a folder of images without a test part, whose classes are called as no class should be."""
    where, noise = tmp_path_factory.mktemp("folder"), np.random.RandomState(0)
    for split, n in (("train", 8), ("val", 4)):
        for name in NASTY:
            (where / "images" / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = noise.randint(0, 255, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(where / "images" / split / name / f"{i}.png")
    data = ["data.name=folder", f"data.root={where / 'images'}", "data.image_size=16", "data.channels=1"]
    words = [*TINY, *data, "augmentation.crop_padding=0", "schedule.epochs=1", "data.batch_size=8"]
    run("train", "digits", *words, "--quiet", "--out", where / "<b>run")
    return where / "<b>run"


def test_text_is_escaped(folder_run, show):
    page = show(folder_run / "report.html")
    assert page.evaluate("window.hit") is None
    assert page.locator("#confusion-0 tbody th").all_inner_texts() == sorted(NASTY)
    assert folder_run.name in page.locator("#overview").inner_text() or page.locator("section b").count() == 0
    comparison = write_report([folder_run, folder_run], folder_run.parent / "two.html")
    page = show(comparison)
    assert "<b>run" in page.locator("#runs tbody th").first.inner_text() and page.locator("section b").count() == 0


def test_without_test_images(folder_run, show):
    page = show(folder_run / "report.html")
    assert "the data set has no test images" in page.locator(".facts").inner_text()
    assert (
        "12 validation images" in page.locator("#images").inner_text()
        or "validation images" in page.locator("#images").inner_text()
    )


def test_data_that_is_gone(folder_run, show, tmp_path):
    """What can be said without it is said; --root names another place."""
    moved = folder_run.parent / "moved"
    (folder_run.parent / "images").rename(moved)
    try:
        page = show(write_report([folder_run], tmp_path / "gone.html"))
        assert "could not be loaded" in page.locator("#images").inner_text()
        assert "could not be loaded" in page.locator("#cost").inner_text()
        assert page.locator("#energy").count() == 0, "no empty table"
        assert page.locator("#curves .chart").count() >= 3
        page = show(write_report([folder_run], tmp_path / "found.html", root=str(moved)))
        assert page.locator("#layers-0").count() == 1
    finally:
        moved.rename(folder_run.parent / "images")


def test_runs_on_different_data(runs, folder_run, show, tmp_path):
    page = show(write_report([runs / "exit", folder_run], tmp_path / "both.html"))
    assert "different data sets" in page.locator(".warning").inner_text()


def copy(runs: Path, to: Path, *names: str) -> Path:
    to.mkdir()
    for name in names:
        shutil.copy(runs / "stas" / name, to / name)
    return to


def test_unfinished_run(runs, show, tmp_path):
    here = copy(runs, tmp_path / "run", "recipe.yaml", "last.safetensors", "metrics.csv", "spikes.csv")
    page = show(write_report([here]))
    assert "has not ended: go on with spikevit train --resume" in page.locator("#overview .note").inner_text()
    (here / "metrics.csv").unlink()
    (here / "spikes.csv").unlink()
    assert "There is no metrics.csv" in show(write_report([here])).locator("#curves").inner_text()


def test_checkpoint_by_itself(runs, show, tmp_path):
    shutil.copy(runs / "stas" / "best.safetensors", tmp_path / "mine.safetensors")
    page = show(write_report([tmp_path / "mine.safetensors"]))
    assert (tmp_path / "mine-report.html").exists() and "a checkpoint by itself" in page.locator("#curves").inner_text()
    about = {key: value for key, value in read_about(tmp_path / "mine.safetensors").items() if key in ("recipe",)}
    save_model(load_model(tmp_path / "mine.safetensors"), tmp_path / "bare.safetensors", **about)
    page = show(write_report([tmp_path / "bare.safetensors"]))
    assert "does not say what data" in page.locator("#images").inner_text()


def test_conversions_are_found(runs, show, tmp_path, monkeypatch):
    """Under any name, and where the run has moved; what is shown is the network of spikes, with no epoch of another."""
    here = tmp_path / "moved"
    shutil.copytree(runs / "ge2mst", here)
    monkeypatch.chdir(here)
    (here / "best-certificate.json").rename(here / "proof.json")
    for path in (here, here / "best.safetensors", here / "best-spiking.safetensors"):
        page = show(write_report([path], tmp_path / "report.html"))
        assert "codes differ on 40 images" in page.locator(".verdict").inner_text()
        assert "shown is epoch" not in page.locator(".facts").inner_text()
    shutil.copy(runs / "stas" / "best.safetensors", here / "best.safetensors")  # another model of that name
    page = show(write_report([here / "best.safetensors"], tmp_path / "report.html"))
    assert (
        "proof.json is not shown: it is of another model than best.safetensors and"
        in page.locator("#conversion").inner_text()
    )
    page = show(write_report([here / "last.safetensors"], tmp_path / "report.html"))
    assert page.locator("#conversion, [href='#conversion']").count() == 0
    (here / "proof.json").unlink()
    page = show(write_report([here / "best-spiking.safetensors"], tmp_path / "report.html"))
    assert "its certificate is not beside it" in page.locator("#conversion").inner_text()


def test_folders_of_others_inside_a_run(runs, tmp_path):
    here = copy(runs, tmp_path / "run", "recipe.yaml", "best.safetensors", "results.json", "metrics.csv")
    (here / "analysis").mkdir()
    (here / "analysis" / "results.json").write_text("{}")
    assert write_report([here]).exists()


def test_runs_have_short_names():
    assert labels(["runs/a", "runs/b"]) == ["a", "b"]
    assert labels(["x/runs/a", "y/runs/a"]) == ["x/runs/a", "y/runs/a"]
    assert labels(["runs/a", "runs/a"]) == ["a", "a (2)"]


def test_heads_of_adapted_models_are_exempt(runs):
    """As those of plain ones, by the check and by the convention `paper`."""
    model = load_model(runs / "exit" / "final.safetensors")
    counts = count(model, torch.randn(2, 1, 16, 16))
    (head,) = (c for c in counts.operators if c.module == "model.head")
    assert head.head
    verdicts = {v.module: v for v in check(counts, load_rule("asynchronous")).verdicts}
    assert verdicts["model.head"].reason == "head: exempt"


@pytest.mark.parametrize(
    "changes",
    [{"mixers": ("ms_channel", "ms_channel", "ssa")}, {}, {"legacy_batch_leak": True}],
    ids=["channels", "tokens", "leak"],
)
def test_maps_are_of_tokens(changes):
    """Of each mixer one value a token; the batch-axis defect does not make steps of images."""
    model = create_model("msvit_tiny", in_channels=1, image_size=16, num_classes=10, time_steps=2, **changes)
    data = load_data("digits", image_size=16)
    calibrate(model, normalise(data.train.images[:32], data.info))
    found = look(model, data, images=20, count_images=4)
    assert {tuple(grid.shape) for grid in found.close[0].maps.values()} == {(16, 16), (8, 8), (4, 4)}
    assert {len(rates) for rates in found.rates.values()} == {2}
    assert found.mean_rates.keys() == found.rates.keys()


def test_bad_runs(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foreign").mkdir()
    begun = copy(runs, tmp_path / "begun", "recipe.yaml")
    broken = {}
    for name, file, text in (
        ("half", "best.safetensors", None),
        ("results", "results.json", "{"),
        ("list", "results.json", "[1]"),
        ("lacking", "results.json", '{"accuracy": 1}'),
        ("recipe", "recipe.yaml", "model: ["),
        ("rates", "spikes.csv", "epoch,layer\n1,x\n"),
        ("metrics", "metrics.csv", "epoch,loss\n1,many\n"),
    ):
        files = ("recipe.yaml", "best.safetensors", "metrics.csv", "results.json", "spikes.csv")
        here = copy(runs, tmp_path / name, *files)
        whole = (here / file).read_bytes()
        (here / file).write_bytes(whole[: len(whole) // 2] if text is None else text.encode())
        broken[name] = here
    for path, message in (
        ("nothing", "there is no run nothing"),
        ("foreign", "foreign is not the directory of a run: there is no recipe.yaml in it"),
        (begun, "no epoch of .*begun has ended.*--resume"),
        (broken["half"], "best.safetensors is truncated"),
        (broken["results"], "results.json is broken"),
        (broken["list"], "results.json is broken"),
        (broken["lacking"], "results.json is broken: Results lacks right, total, split"),
        (broken["metrics"], "metrics.csv is broken"),
        (broken["recipe"], "the recipe in .*recipe.yaml is broken"),
        (broken["rates"], "spikes.csv is broken"),
    ):
        with pytest.raises(ValueError, match=message):
            write_report([path])
    assert not list(tmp_path.rglob("*.html")), "nothing half-written"
    with pytest.raises(ValueError, match="needs a run"):
        write_report([])


def test_files_of_others_are_kept(runs, tmp_path, capsys):
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(ValueError, match=r"mine.html exists already, is no report"):
        write_report([runs / "stas"], mine)
    assert mine.read_text() == "<p>mine</p>"
    with pytest.raises(ValueError, match=r"out=.*report.pdf must end in .html"):
        write_report([runs / "stas"], tmp_path / "report.pdf")
    assert main(["report", str(runs / "stas"), "--images", "0"]) == 2
    assert "--images 0 must be at least 1" in capsys.readouterr().err
    assert write_report([runs / "stas"], images=50, count_images=4) == runs / "stas" / "report.html", "replaced"
    assert "the first 50 of 360" in (runs / "stas" / "report.html").read_text()
    write_report([runs / "stas"])


def test_interval():
    """Against scipy.stats.binomtest(95, 100).proportion_ci(method="wilson"), and its limits."""
    assert wilson(95, 100) == pytest.approx((0.88824953, 0.97845632), abs=1e-7)
    assert wilson(10, 10)[1] == pytest.approx(1) and wilson(0, 10)[0] == pytest.approx(0)


def test_charts_leave_colours_to_the_page():
    drawn = [
        svg.lines({"a <b>": ([1, 2], [0.5, 0.25]), "$x$": ([1, 2], [1, 2])}, "x", "y"),
        svg.bars({"one": {"a": 1.0, "b": 2.0}, "two": {"a": 3.0}}, "x", marks={"one": 1, "two": 2}),
        svg.heat({"layer": [0.0, 0.5, 1.0], "short": [0.1]}, "step"),
        svg.raster({"layer": torch.eye(4).bool(), "short": torch.ones(3, 2).bool()}),
        svg.histogram({"1": 3, "2": 0}, "step", "images"),
        svg.points({"a": (1.0, 2.0)}, "x", "y"),
    ]
    names = []
    for drawing in drawn:
        assert drawing.startswith("<svg") and "<metadata" not in drawing
        assert not [c for c in re.findall(r"#[0-9a-f]{6}", drawing) if c not in ("#ffffff", "#000000")], drawing
        names += re.findall(r' id="([^"]+)"', drawing)
    assert len(names) == len(set(names)), "identifiers differ between charts of a page"
    assert "a &lt;b&gt;" in drawn[0] and "$x$" in drawn[0]
