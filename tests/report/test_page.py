"""The page in a real browser."""

import io
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from gapless.config import DataConfig
from gapless.data import build_source
from gapless.eval.results import Result, save_result
from gapless.report import load_run, write_report
from tests.report.hostile import HOSTILE
from tests.runs import TINY, run, tiny_config, write_config

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader", "--disable-background-networking", "--disable-sync"]

if CHROMIUM is None and not os.environ.get("GAPLESS_NEEDS_BROWSER"):
    pytest.skip("no Chromium on this machine", allow_module_level=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run in three dimensions, evaluated before and after each epoch, and one in sixteen."""
    output = tmp_path_factory.mktemp("runs")
    folders = []
    for name, dimension, samples in (("sphere", 3, 96), ("plain", 16, 80)):  # positions are those of a run's own subset
        changes = {"model__architecture": TINY | {"embed_dim": dimension}, "data__train_samples": samples}
        tree = tiny_config(output, name=name, **changes)
        tree |= {"eval": {"keep_embeddings": [0, 1, 2], "split": "train"}, "checkpoint": {}}
        run("train", "--config", str(write_config(tree, output / f"{name}.yaml")))
        folders.append(output / name)
    run("eval", str(folders[0]), "--datasets=[emoji]", "--tasks=[gap]", "--workers=0")
    return folders


@pytest.fixture(scope="module")
def report(runs):
    path = runs[0].parent / "report.html"
    write_report([load_run(folder) for folder in runs], path)
    return path


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def opened(browser, report):
    """Opens the page, and fails if it said or fetched anything."""
    pages = []

    def open_page(**options):
        page = browser.new_page(viewport={"width": options.pop("width", 1200), "height": 900}, **options)
        wrong, fetched = [], []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-ready=true]")
        page.locator("#map-space").scroll_into_view_if_needed()
        page.wait_for_function("() => document.getElementById('map-space').data")
        pages.append((page, wrong, fetched))
        return page

    yield open_page
    for page, wrong, fetched in pages:
        assert wrong == []
        assert [url for url in fetched if not url.startswith(("file:", "data:", "blob:"))] == []
        page.close()


def colors(page, selector):
    """How many different colours a part of the page shows."""
    picture = Image.open(io.BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
    return len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0))


def test_every_chart_is_drawn_when_it_comes_into_view(opened):
    page = opened()
    charts = page.locator("section > .grid [data-chart]")
    assert charts.count() >= 8 + 3 + 2
    for k in range(charts.count()):
        charts.nth(k).scroll_into_view_if_needed()
        charts.nth(k).locator("svg.main-svg").first.wait_for()
    page.locator("details summary").first.click()
    page.locator("details [data-chart] svg.main-svg").first.wait_for()
    page.locator("#map-plane").scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert colors(page, "#map-plane") > 50
    assert colors(page, "#map-space") > 50


def test_the_slider_moves_the_points_and_the_sphere_turns(opened):
    page = opened()
    first = "() => Array.from(document.getElementById('map-plane').data[0].x)"
    last = page.evaluate(first)
    assert page.locator("#map-scores").text_content().startswith("2: centroid distance")
    page.locator("#map-epoch").fill("0")
    assert page.locator("#map-scores").text_content().startswith("0: centroid distance")
    assert page.evaluate(first) != last
    page.locator("#map-space").scroll_into_view_if_needed()
    eye = "() => document.getElementById('map-space').layout.scene.camera.eye.x"
    before = page.evaluate(eye)
    page.wait_for_function(f"(before) => ({eye})() !== before", arg=before)
    page.locator("#map-run").select_option("1")
    assert page.evaluate("() => document.getElementById('map-space').data.length") == 2  # no globe around it


def test_pointing_at_a_point_shows_its_picture_and_caption(opened):
    page = opened(reduced_motion="reduce")
    place = """() => {
      const div = document.getElementById('map-plane'), at = div._fullLayout, box = div.getBoundingClientRect();
      const x = at.xaxis.d2p(div.data[0].x[5]), y = at.yaxis.d2p(div.data[0].y[5]);
      return [box.x + at.margin.l + x, box.y + at.margin.t + y];
    }"""
    page.locator("#map-plane").scroll_into_view_if_needed()
    x, y = page.evaluate(place)
    page.mouse.move(x - 3, y)
    page.mouse.move(x, y, steps=3)
    page.locator("#card:not([hidden])").wait_for()
    caption = page.locator("#card span").text_content()
    assert caption.endswith(("(image)", "(text)"))
    assert len(caption) > 8
    assert page.evaluate("() => document.querySelector('#card img').naturalWidth") > 30
    page.mouse.move(2, 2)
    page.locator("#card").wait_for(state="hidden")


def test_retrieval_examples_have_pictures_and_mark_the_right_one(opened):
    page = opened()
    assert page.locator(".example").count() == 2 * 2 * 6
    broken = "() => [...document.querySelectorAll('[data-picture]')].filter(i => !i.src.startsWith('data:')).length"
    assert page.evaluate(broken) == 0
    ranks = [int(text.split()[1]) for text in page.locator(".example small").all_text_contents()]
    assert page.locator(".example .right").count() == sum(rank <= 5 for rank in ranks)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_follow_the_colour_scheme(opened, scheme):
    page = opened(color_scheme=scheme)
    ink = page.evaluate("() => document.getElementById('map-plane').layout.font.color")
    assert ink == {"light": "#1c2126", "dark": "#e4e8eb"}[scheme]
    paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 25, 29)"}[scheme]


def test_it_fits_a_phone_and_prints(opened):
    page = opened(width=390)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.emulate_media(media="print")
    assert not page.locator(".controls").is_visible()
    assert len(page.pdf()) > 50_000


def test_tables_mark_the_best_and_names_are_escaped(runs, tmp_path):
    record = load_run(runs[0])
    record.name = "<b>bold</b>"
    write_report([load_run(runs[0]), record], tmp_path / "r.html", title="A & B")
    text = (tmp_path / "r.html").read_text()
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "<b>bold" not in text.partition("<script")[0]
    assert "<title>A &amp; B</title>" in text
    assert '<td class="best">' in text
    assert "<h3>emoji: gap</h3>" in text  # of gapless eval
    names = {p.name for p in (tmp_path / "r_figures").iterdir()}
    assert {"curves.pdf", "curves.png", "maps.pdf", "cosines.png", "cumulative_explained_variance.pdf"} <= names
    assert r"\toprule" in (tmp_path / "r.tex").read_text()
    assert "![curves](r_figures/curves.png)" in (tmp_path / "r.md").read_text()


def test_results_of_random_weights_are_called_so(runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "run", ignore=shutil.ignore_patterns("results"))
    result = Result("cifar10", "zeroshot_classification", {"acc1": 0.1}, "ViT-B-32", "random weights")
    save_result(result, tmp_path / "run" / "results")
    write_report([load_run(tmp_path / "run")], tmp_path / "r.html")
    assert "run (random weights)" in (tmp_path / "r.html").read_text()


def test_without_embeddings_or_data_there_is_still_a_page(runs, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copy(runs[0] / "metrics.jsonl", folder)
    printed = run("report", str(folder), "--output", str(tmp_path / "bare.html"))
    assert "bare.html, bare.md, bare.tex and 2 figures" in printed
    text = (tmp_path / "bare.html").read_text()
    assert 'id="map-plane"' not in text
    assert "val/centroid_distance" in text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Two runs whose names, captions, keys, metrics, settings and data sets are hostile; the report of both."""
    output = tmp_path_factory.mktemp("hostile")
    (output / "data").mkdir()
    for k, text in enumerate(HOSTILE):
        name = text.replace("/", "-")
        Image.new("RGB", (8, 8), (k, 0, 0)).save(output / "data" / f"{name}.png", "PNG")
        (output / "data" / f"{name}.txt").write_text(text, encoding="utf-8")
    source = build_source(DataConfig(source="folder", path=str(output / "data"), val_path=str(output / "data")), "val")
    keys = [source.key(i) for i in range(len(source))]
    features = torch.nn.functional.normalize(torch.randn(2, len(keys), 6), dim=2)
    tensors = {"image": features[0], "text": features[1], "indices": torch.arange(len(keys))}
    runs = []
    for name in HOSTILE[:2]:
        folder = output / name.replace("/", "-")
        (folder / "embeddings").mkdir(parents=True)
        save_file(tensors, folder / "embeddings" / "epoch_00001.safetensors", {"keys": json.dumps(keys)})
        (folder / "embeddings" / "epoch_abc.safetensors").touch()
        lines = [{"epoch": k, "val/alignment": k, **{f"val/{text}": k for text in HOSTILE}} for k in range(2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        data = {"source": "folder", "path": str(output / "data"), "val_path": str(output / "data")}
        write_config({"data": data, "name": name, "tracking": {"project": name}}, folder / "config.yaml")
        save_result(
            Result(f"my {HOSTILE[0]} set", "gap", {"alignment": 0.5}, "m", "p", num_samples=9), folder / "results"
        )
        runs.append(folder)
    write_report([load_run(folder) for folder in runs], output / "a (b) $c$.html", title=" ".join(HOSTILE))
    return output / "a (b) $c$.html"


def test_hostile_texts_are_shown_as_they_are(browser, hostile):
    page = browser.new_page()
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(hostile.as_uri())
    page.wait_for_selector("html[data-ready=true]")
    shown = page.locator("[data-caption]").all_text_contents()
    assert len(shown) >= 6
    assert set(shown) <= set(HOSTILE)
    assert sorted(page.evaluate("() => Object.values(content.captions)")) == sorted(HOSTILE)
    assert page.title() == " ".join(" ".join(HOSTILE).split())
    names = [name.replace("/", "-") for name in HOSTILE[:2]]
    assert page.locator(".runs span").all_text_contents() == names
    assert page.locator("#map-run option").all_text_contents() == names
    captions = page.locator("figcaption").all_text_contents()
    assert {f"val/{text}" for text in HOSTILE} <= set(captions)
    assert f"my {HOSTILE[0]} set: gap" in page.locator("h3").all_text_contents()
    page.locator("[data-chart]").first.scroll_into_view_if_needed()
    page.locator("[data-chart] svg.main-svg").first.wait_for()
    legend = "() => { const d = document.querySelector('[data-chart]'); d.layout.showlegend = true; Plotly.redraw(d);"
    page.evaluate(legend + " }")
    assert page.locator("[data-chart]").first.locator(".legendtext").all_text_contents() == names
    assert page.evaluate("() => window.hit") is None
    assert wrong == []
    page.close()


def test_a_hostile_report_as_markdown_and_latex(hostile):
    output, tex = (hostile.with_suffix(suffix).read_text() for suffix in (".md", ".tex"))
    assert "![curves](a%20%28b%29%20%24c%24_figures/curves.png)" in output
    assert (hostile.parent / "a (b) $c$_figures" / "curves.png").stat().st_size > 1000
    assert not {"<script", "<img", "<!--", "[x](http"} & set(
        re.findall(r"<script|<img|<!--|(?<!\\)\[x\]\(http", output)
    )
    for line in output.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (4, 5)
    assert "<" not in tex
    assert "|" not in tex
