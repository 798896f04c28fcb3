"""The report in a browser: it draws, complains of nothing, asks nothing of the network, and obeys its reader."""

from __future__ import annotations

import json

import pytest
from conftest import ROOT

from precalign.cli.main import main

pytestmark = pytest.mark.browser
PLOTS = 11


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "out"
    demo = str(ROOT / "analysis/demo/novel.safetensors")
    rules = ["--rule", "alignedkv", "--rule", "aligned-max"]
    assert main(["analyze", demo, "-o", str(out), "--steps", "every:16", *rules]) == 0
    return out


@pytest.fixture
def page(report, chromium):
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, which is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.complaints, opened.requests = [], []
        opened.on("console", lambda message: opened.complaints.append(message.text))
        opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
        opened.on("request", lambda request: opened.requests.append(request.url))
        opened.goto(f"file://{report}/report.html")
        opened.wait_for_function("document.documentElement.dataset.ready === 'true'")
        yield opened
        browser.close()


def data_of(page, plot):
    return page.evaluate(f"document.getElementById('{plot}').data.map(t => ({{x: t.x, y: t.y, z: t.z, name: t.name}}))")


def test_it_draws_without_complaint_or_network(page, report):
    assert page.locator(".plot .main-svg").count() >= PLOTS
    assert page.locator(".plot").count() == PLOTS
    assert page.complaints == []
    assert page.requests == [f"file://{report}/report.html"]


def test_numbers_on_the_page_are_those_of_the_json(page, report):
    rule = json.loads((report / "summary.json").read_text())["rules"][0]
    shown = {
        e["key"]: e
        for e in page.evaluate(
            "[...document.querySelectorAll('section:not([hidden]) dd')].map(e => ({...e.dataset, text: e.innerText}))"
        )
    }
    assert float(shown["key_bits_mean"]["value"]) == rule["totals"]["key_bits_mean"]
    assert shown["key_bits_mean"]["text"] == f"{rule['totals']['key_bits_mean']:.1f} bits"
    assert shown["bytes_saving"]["text"] == f"{100 * rule['totals']['bytes_saving']:.1f} %"
    bars = data_of(page, "savings")[0]["y"]
    assert bars[0] == pytest.approx(100 * rule["totals"]["bits_saving"])
    assert len(data_of(page, "heat-key_bits_mean")[0]["z"]) == 3


def test_another_rule_and_another_head(page, report):
    rules = json.loads((report / "summary.json").read_text())["rules"]
    before = data_of(page, "channels")[0]["y"]
    page.select_option("#rule", "1")
    assert data_of(page, "savings")[0]["y"][0] == pytest.approx(100 * rules[1]["totals"]["bits_saving"])
    assert "aligned-max" in page.locator("section.headline:not([hidden])").inner_text()
    page.select_option("#head", "3")
    assert data_of(page, "channels")[0]["y"] != before
    assert page.complaints == []


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(set(page.screenshot())) > 100  # not blank
