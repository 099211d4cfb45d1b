"""The page to explore channels: its data, and its behaviour in a real browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reference.channels.explanation import Explanation
from reference.figures.explanation_figure import Panel
from reference.figures.explorer import write_explorer

DEMO = Path(__file__).parents[2] / "docs" / "figures" / "demo_channels.html"
WIDTH, HEIGHT = 24, 16
NEEDS_BROWSER = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")) and "REQUIRE_BROWSER" not in os.environ,
    reason="needs Debian's chromium and chromium-driver: make browser",
)


def explanation(name: str, *channels: tuple[int, int], box: tuple[int, int, int, int] | None = None) -> Explanation:
    """A class of which each channel is active in the given columns."""
    maps = torch.zeros(len(channels) + 1, HEIGHT, WIDTH)
    for channel, (first, last) in enumerate(channels):
        maps[channel, :, first:last] = 1
    maps[-1] = maps[:-1].amax(0)
    return Explanation(name, "true", probability=0.75, overlap=0.25, diversity=1.5, maps=maps, box=box)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page of two images and two networks; the second network has two classes of other sizes."""
    photo = torch.full((3, HEIGHT, WIDTH), 0.5)
    halves = explanation("</script>Red", (0, 12), (12, 24), box=(2, 3, 10, 8))
    thirds = explanation("Green", (0, 8), (8, 16), (16, 24))
    networks = [Panel("plain", photo, [halves]), Panel("with loss", photo, [halves, thirds])]
    write_explorer(tmp_path / "new" / "page.html", {"a.png": networks, "b.png": [networks[0]]}, note="<b> & 1")
    return tmp_path / "new" / "page.html"


def data_of(page: Path) -> list[dict[str, Any]]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def pixels(url: str) -> np.ndarray:
    prefix = "data:image/png;base64,"
    assert url.startswith(prefix)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix(prefix)))))


def test_the_data_are_those_of_the_explanations(page: Path) -> None:
    first, second = data_of(page)
    assert (first["name"], second["name"]) == ("a.png", "b.png")
    assert [network["name"] for network in first["networks"]] == ["plain", "with loss"]
    red, green = first["networks"][1]["views"]
    assert (red["title"], green["title"]) == ("</script>Red (true)", "Green (true)")
    assert (red["probability"], red["overlap"], red["diversity"]) == ("75.0%", "0.25", "1.50 of 2")
    assert (red["box"], green["box"]) == ([2, 3, 10, 8], None)
    assert [len(red["maps"]), len(green["maps"])] == [2, 3]  # without their maximum
    left, right = map(pixels, red["maps"])
    assert left.shape == (HEIGHT, WIDTH)
    assert (left[:, :12] == 255).all()
    assert not left[:, 12:].any()
    assert np.array_equal(right, 255 - left)
    assert (pixels(first["networks"][0]["photo"]) == 128).all()


def test_the_note_is_text(page: Path) -> None:
    assert '<p class="note">&lt;b&gt; &amp; 1</p>' in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("written", [False, True])
def test_the_page_needs_no_network(written: bool, page: Path) -> None:
    text = (page if written else DEMO).read_text(encoding="utf-8")
    assert not re.findall(r"https?:|@import|\bfetch\(|(?:src|href)=", text)
    assert "default-src 'none'" in text


@pytest.fixture
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "window-size=1000,900",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


def wait(browser: Any, script: str) -> Any:
    """The value of a script, once it is true."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 20).until(lambda _: browser.execute_script(f"return {script}"))


def colour_at(browser: Any, network: int, column: int) -> list[int]:
    """The colour that a canvas shows in a column, half way down."""
    canvas = f"document.querySelectorAll('canvas')[{network}]"
    return browser.execute_script(
        f"return [...{canvas}.getContext('2d').getImageData({column}, {HEIGHT // 2}, 1, 1).data]"
    )[:3]


@NEEDS_BROWSER
def test_channels_are_switched_and_images_changed_in_a_browser(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    drawn = "[...document.querySelectorAll('canvas')].map(one => one.dataset.drawn).join('|')"
    wait(browser, f"{drawn} === '0 1|0 1'")
    orange, blue = colour_at(browser, 0, 4), colour_at(browser, 0, 20)
    assert orange[0] > 1.5 * orange[2]  # channel 1 on the left
    assert blue[2] > 1.5 * blue[0]  # channel 2 on the right

    browser.find_elements("css selector", "section:first-of-type input[type=checkbox]")[1].click()
    wait(browser, f"{drawn} === '0|0 1'")
    assert colour_at(browser, 0, 4) == orange
    assert max(colour_at(browser, 0, 20)) - min(colour_at(browser, 0, 20)) <= 2  # the grey photo alone

    browser.execute_script(
        "const all = document.querySelectorAll('section select'); all[1].selectedIndex = 1; all[1].onchange()"
    )
    wait(browser, f"{drawn} === '0|0 1 2'")
    assert "Green (true)" in browser.execute_script("return document.querySelectorAll('canvas')[1].ariaLabel")

    browser.find_element("id", "next").click()
    wait(browser, f"{drawn} === '0'")  # the second image has one network; its switches stay
    assert browser.find_element("id", "image").get_attribute("value") == "1"
    browser.find_element("id", "next").click()
    wait(browser, f"{drawn} === '0|0 1 2'")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@NEEDS_BROWSER
def test_the_page_of_the_demo_shows_every_image_in_a_browser(browser: Any) -> None:
    browser.get(DEMO.as_uri())
    names = [image["name"] for image in data_of(DEMO)]
    assert len(names) == 20
    for name in names:
        label = "document.querySelectorAll('canvas')[1].ariaLabel"
        wait(browser, f"{label}.startsWith({json.dumps(name + ':')})")
        wait(browser, "[...document.querySelectorAll('canvas')].every(one => one.dataset.drawn === '0 1 2')")
        shades = "canvas => new Set(canvas.getContext('2d').getImageData(0, 0, 96, 48).data).size"
        assert browser.execute_script(
            f"return [...document.querySelectorAll('canvas')].every(one => ({shades})(one) > 50)"
        )
        browser.find_element("id", "next").click()
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@NEEDS_BROWSER
def test_it_fits_a_phone(browser: Any, page: Path) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    browser.get(page.as_uri())
    wait(browser, "document.querySelectorAll('canvas')[1].dataset.drawn")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
