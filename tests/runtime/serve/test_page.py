"""The page in a real headless Chromium."""

import contextlib
import dataclasses
import threading

import pytest
from artifacts import coloured, write_colour_model
from playwright.sync_api import expect
from serving import TIMEOUT_S, Served
from videos import write_video

from dvfl_runtime import Recognizer
from dvfl_runtime.results import WHOLE
from dvfl_runtime.serve.address import Address, listen
from dvfl_runtime.serve.server import PageServer
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.observed import ObservedSource

NAMES = ("door", "yard")
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("page")
    write_colour_model(path / "m.onnx")
    write_video(path / "r.mp4", coloured(("red", 200)), pix_fmt="yuv444p")
    write_video(path / "b.mp4", coloured(("blue", 250)), pix_fmt="yuv444p")
    return path


@pytest.fixture
def page(browser):
    """A page that remembers its requests and what it complained about."""
    with contextlib.closing(browser.new_page(viewport={"width": 390, "height": 844})) as page:
        page.set_default_timeout(TIMEOUT_S * 1000)
        expect.set_options(timeout=TIMEOUT_S * 1000)
        page.requested, page.complaints = [], []
        page.on("request", lambda request: page.requested.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        yield page


@pytest.fixture
def server(folder):
    """A page in this process, and the recognizer that it is about."""
    listening, address = listen(Address("127.0.0.1", 0), None)
    with Recognizer(folder / "m.onnx", engine="onnxruntime") as recognizer:
        info, labels = recognizer.info, recognizer.labels
        page = PageServer(listening, address.host, None, info=info, labels=labels)
        with contextlib.closing(page):
            yield page, recognizer, f"http://{address}/"


def test_the_label_changes_on_screen_when_the_action_changes(server, page):
    shown, recognizer, url = server
    turned, over = threading.Event(), threading.Event()

    def frames(first, then):
        while not over.is_set():
            yield coloured((then if turned.is_set() else first, 1))[0]

    def recognise():
        sources = [
            ObservedSource(open_source(frames(*two)), name=name)
            for name, two in zip(NAMES, (("red", "green"), ["blue"] * 2), strict=True)
        ]
        for source in sources:
            shown.watch(source)
        for prediction in recognizer.stream(sources):
            region = (0.25, 0.5, 0.5, 0.25) if turned.is_set() else WHOLE
            shown.write(dataclasses.replace(prediction, region=region))

    recognising = threading.Thread(target=recognise)
    recognising.start()
    try:
        page.goto(url)
        card, other = (page.get_by_role("article", name=n, exact=True) for n in NAMES)
        expect(card.locator(".label")).to_have_text("red")
        expect(card.locator(".state")).to_have_text("playing")
        expect(card.locator(".bars li")).to_have_count(3)
        expect(card.locator(".bars li").first).to_contain_text("red")
        expect(card.locator(".strip li")).to_have_count(1)
        expect(card.locator(".latency")).to_contain_text("ms")
        picture = card.get_by_role("img")
        expect(picture).to_be_visible()
        width, height = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
        assert width == 48
        box = card.locator(".region rect")
        expect(box).to_have_attribute("width", "0%")  # the whole picture has no border
        expect(other.locator(".label")).to_have_text("blue")
        assert page.evaluate(f"(([a, b]) => a <= b)({WIDTHS})"), "a phone would scroll sideways"
        expect(page.locator("#connection")).to_have_text("connected")

        turned.set()
        expect(card.locator(".label")).to_have_text("green")
        expect(card.locator(".bars li").first).to_contain_text("green")
        expect(card.locator(".strip li")).to_have_count(2)
        expect(box).to_have_attribute("width", "50%")
        seen = box.bounding_box()
        assert seen["width"] / seen["height"] == pytest.approx(2 * width / height, rel=0.1)
        assert "red, 0:00 to" in card.locator(".strip li").first.get_attribute("title")
    finally:
        over.set()
        recognising.join()
    expect(page.locator("#connection")).to_have_text("all sources have ended")
    expect(card.locator(".state")).to_have_text("ended")
    expect(card.locator(".label")).to_have_text("green")  # what it saw stays
    shown.close()
    expect(page.locator("#connection")).to_have_text("all sources have ended")
    assert page.complaints == []
    assert {one[: len(url)] for one in page.requested if one[:5] != "data:"} == {url}


def test_each_region_has_a_box_and_a_row(server, page):
    shown, recognizer, url = server
    source = ObservedSource(open_source(coloured(("red", 60))), name="hall")
    shown.watch(source)
    boxes = {"door": (0.0, 0.0, 0.5, 1.0), "desk": (0.5, 0.0, 0.5, 0.5)}
    page.goto(url)
    card = page.get_by_role("article", name="hall", exact=True)
    for seen in recognizer.stream(source, regions=boxes):
        shown.write(seen)
    expect(card.locator(".label")).to_have_text("door: red")
    expect(card.locator(".region rect")).to_have_count(2)
    expect(card.locator(".region text")).to_have_text(["door: red", "desk: red"])
    rows = card.locator(".strip li")
    expect(rows).to_have_count(2)
    (first, second) = (rows.nth(n).bounding_box() for n in (0, 1))
    assert second["y"] >= first["y"] + first["height"] - 1
    assert "desk: red, 0:00 to" in rows.nth(1).get_attribute("title")
    assert page.complaints == []


def test_the_page_hands_on_its_token_and_tells_of_a_lost_connection(folder, page):
    words = ("--model", folder / "m.onnx", "--serve", "0", "--token", "s e+c?ret")
    away = "rtsp://me:pa#ss@127.0.0.1:1/x"
    with Served(folder / "b.mp4", away, *words) as served:
        assert "ret" not in served.url
        address = served.url.replace("...", "s%20e%2Bc%3Fret")
        page.goto(address)
        expect(page.locator(".label").first).to_have_text("blue")
        expect(page.get_by_role("img")).to_be_visible()
        expect(page.locator("#connection")).to_have_text("connected")
        camera = page.get_by_role("article").last
        expect(camera.locator(".state")).to_have_text("connecting")
        expect(camera.locator(".error")).to_contain_text("refused")
        assert not any(word in camera.inner_text() for word in ("me:", "pa#", "ss@"))
        assert page.complaints == []
        served.process.kill()
        expect(page.locator("#connection")).to_have_text("connection lost, trying again")
        again = (*words[:3], served.port, *words[4:])
    with Served(folder / "r.mp4", *again):
        expect(page.locator("#connection")).to_have_text("connected")
        expect(page.locator(".label")).to_have_text("red")
        expect(page.get_by_role("article")).to_have_count(1)
