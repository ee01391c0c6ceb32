"""How the page looks with four sources, on a phone and on a laptop, in a real headless Chromium."""

import contextlib
import os
from pathlib import Path

import pytest
from artifacts import coloured, write_colour_model
from playwright.sync_api import expect
from serving import TIMEOUT_S, Served
from videos import write_video

PHONE, LAPTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
CUT = """() => [...document.querySelectorAll("h2, .label, .sure, .state, .latency, .empty, .error")]
  .filter((part) => part.getClientRects().length)
  .filter((part) => {
    const [box, card] = [part, part.closest(".card") ?? document.body]
      .map((element) => element.getBoundingClientRect());
    return part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).display !== "inline"
      || box.left < card.left - 1 || box.right > card.right + 1 || box.bottom > card.bottom + 1;
  })
  .map((part) => `${part.className || part.tagName}: ${part.textContent}`)"""
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture(scope="module")
def page(browser):
    with contextlib.closing(browser.new_page(viewport=PHONE)) as page:
        page.set_default_timeout(TIMEOUT_S * 1000)
        expect.set_options(timeout=TIMEOUT_S * 1000)
        yield page


@pytest.fixture(scope="module")
def served(tmp_path_factory, page):
    """Show four sources and return their names: long paths, and a camera that is not there."""
    folder = tmp_path_factory.mktemp("a_folder_with_a_long_name_in_which_videos_lie")
    write_colour_model(folder / "m.onnx")
    (folder / "north").mkdir()
    (folder / "south").mkdir()
    paths = [folder / "north" / "door.mp4", folder / "south" / "door.mp4", folder / "workshop.mp4"]
    write_video(paths[0], coloured(("red", 60 * 25), height=32, width=48), pix_fmt="yuv444p")
    for path in paths[1:]:
        os.link(paths[0], path)
    away = "rtsp://127.0.0.1:1/a/stream/with/a/long/path"
    with Served(*paths, away, "--model", folder / "m.onnx", "--serve", "0") as served:
        page.goto(served.url)
        yield [*map(str, paths), away]


def keep(page, name: str) -> None:
    """Take a screenshot, into the folder PAGE_PICTURES if the environment names one."""
    picture = page.screenshot(full_page=True)
    assert len(picture) > 5000
    if folder := os.environ.get("PAGE_PICTURES"):
        (Path(folder) / f"{name}.png").write_bytes(picture)


def bottom(page) -> float:
    boxes = [card.bounding_box() for card in page.get_by_role("article").all()]
    return max(box["y"] + box["height"] for box in boxes)


@pytest.mark.parametrize(
    ("size", "most_px"), [(PHONE, 844), (LAPTOP, 800)], ids=["phone", "laptop"]
)
def test_four_sources_fit_on_the_screen_and_nothing_is_cut(served, page, size, most_px):
    page.set_viewport_size(size)
    cards = page.get_by_role("article")
    expect(cards).to_have_count(4)
    for n in range(3):
        expect(cards.nth(n).locator(".label")).to_have_text("red")
        expect(cards.nth(n).get_by_role("img")).to_be_visible()
    expect(cards.nth(3).locator(".empty")).to_contain_text("not reached")
    expect(cards.nth(3).locator(".error")).to_contain_text("refused")
    for part in (".label", ".strip", "dl"):  # there is nothing to show in them yet
        expect(cards.nth(3).locator(part)).to_be_hidden()
    keep(page, f"four_{size['width']}")
    assert page.evaluate(f"(([a, b]) => a <= b)({WIDTHS})"), "it would scroll sideways"
    assert page.evaluate(CUT) == []
    assert bottom(page) <= most_px


def test_long_names_keep_both_ends_and_break_at_their_marks(served, page):
    long = [f"a_recording_of_the_north_entrance_{day}_16-20-05.mp4" for day in ("08-27", "08-28")]
    short = page.evaluate("names => shortNames(names)", ["/videos/door.mp4", *long])
    assert short[0] == "door.mp4"
    assert len(set(short)) == 3
    assert short[1].startswith("a_recording")
    assert short[2].endswith("16-20-05.mp4")
    one = page.evaluate("names => shortNames(names)", [long[0]])
    assert len(one[0]) <= 32
    label = page.get_by_role("article").first.locator(".label")
    parts = page.evaluate(
        """name => { const node = document.createElement("p"); setName(node, name);
        return [node.textContent, [...node.childNodes].map((part) => part.nodeName)]; }""",
        "1: wave_one_hand",
    )
    assert parts == ["1: wave_one_hand", ["#text", "WBR"] * 4]
    expect(label).to_have_text("red")


def test_tags_of_regions_are_in_the_picture_and_cover_no_other_tag(served, page):
    places = page.evaluate("""() => {
      const picture = { width: 160, height: 120 }, taken = [];
      for (const [left, top, bottom] of [[10, 0, 120], [12, 0, 120], [150, 40, 60], [30, 2, 118]])
        taken.push(tagPlace({ left, top, bottom }, 70, 12, picture, taken));
      return taken;
    }""")
    for n, tag in enumerate(places):
        assert 0 <= tag["left"] <= 160 - 70
        assert 0 <= tag["top"] <= 120 - 12
        for other in places[:n]:
            apart = abs(tag["left"] - other["left"]), abs(tag["top"] - other["top"])
            assert apart[0] >= 70 or apart[1] >= 12
    inks = page.evaluate("['#0fa578', '#e69114', '#5a5a5a', '#000000'].map(inkOn)")
    assert inks == ["#000", "#000", "#fff", "#fff"]


def test_of_more_than_four_sources_a_card_shows_less_until_it_is_enlarged(served, page):
    page.set_viewport_size(LAPTOP)
    card = page.get_by_role("article").first
    expect(card.locator(".bars")).to_be_visible()
    page.evaluate(  # and no news about the sources meanwhile
        "() => { window.kept = showStates; showStates = () => {};"
        " document.getElementById('cards').classList.add('many'); }"
    )
    expect(card.locator(".label")).to_be_visible()
    expect(card.locator(".bars")).to_be_hidden()
    assert card.bounding_box()["height"] < 320
    assert page.evaluate(CUT) == []
    card.locator(".view").click()
    expect(card.locator(".bars")).to_be_visible()
    page.keyboard.press("Escape")
    page.evaluate(
        "() => { showStates = window.kept;"
        " document.getElementById('cards').classList.remove('many'); }"
    )


def test_names_are_short_and_a_click_on_a_picture_enlarges_it_and_tells_the_path(served, page):
    page.set_viewport_size(PHONE)
    cards = page.get_by_role("article")
    shown = [cards.nth(n).get_by_role("heading") for n in range(4)]
    for heading, name in zip(
        shown, ("north/door.mp4", "south/door.mp4", "workshop.mp4", "127.0.0.1:1"), strict=True
    ):
        expect(heading).to_have_text(name)
    assert [heading.get_attribute("title") for heading in shown] == served
    card = cards.nth(1)
    before, path = card.bounding_box(), card.locator(".path")
    expect(path).to_be_hidden()
    card.locator(".view").click()
    expect(path).to_have_text(served[1])
    expect(path).to_be_visible()
    expect(card.locator(".latency")).to_be_visible()
    assert card.bounding_box()["height"] > 2 * before["height"]
    assert page.evaluate(CUT) == []
    keep(page, "large_390")
    cards.nth(2).get_by_role("button", name="Enlarge workshop.mp4").click()  # one at a time
    expect(path).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator(".card.large")).to_have_count(0)
    assert card.bounding_box()["height"] == pytest.approx(before["height"], abs=2)
    page.set_viewport_size(LAPTOP)
    card.locator(".view").click()
    assert card.bounding_box()["width"] > 1100
    keep(page, "large_1280")
    page.keyboard.press("Escape")


def test_an_action_is_in_the_list_of_events_while_it_happens(served, page):
    lines = page.locator("#events li")
    expect(lines).to_have_count(3)
    expect(lines.filter(has_text="workshop.mp4")).to_have_text("red, 0:00 to now, workshop.mp4")
    assert lines.filter(has_text="workshop.mp4").get_attribute("title") == served[2]
    expect(page.get_by_role("article").nth(2).locator(".state")).to_have_text("playing")
