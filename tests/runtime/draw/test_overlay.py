"""The overlaid video: every frame of the source, at its times, with the right label on it."""

import dataclasses
import itertools
import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from artifacts import LABELS, coloured, write_colour_model
from videos import shared_clip, write_video

from dvfl_runtime import OutputError, Prediction, Recognizer
from dvfl_runtime.app import cli
from dvfl_runtime.draw.encoding import ENCODERS, VideoWriter, to_yuv
from dvfl_runtime.draw.marks import tags
from dvfl_runtime.draw.overlay import OverlayVideo, check_overlay_suffix, magnification
from dvfl_runtime.draw.palette import class_colour, ink_on
from dvfl_runtime.draw.panel import FILL_PART, GREY, WHITE, Panel
from dvfl_runtime.sources import Frame, open_source
from dvfl_runtime.sources.observed import ObservedSource


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx")


def overlaid(source, out, model):
    """Run the command and return the pictures (H, W, 3) and the times of what it wrote."""
    assert cli.main([str(source), "--model", str(model), "--overlay", str(out), "-o", "x.txt"]) == 0
    return decoded(out)


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.pix_fmt == "yuv420p"
        frames = list(container.decode(stream))
        return [f.to_ndarray(format="rgb24") for f in frames], [float(f.time) for f in frames]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def picture_px(width, height):
    """Return the width and the height of the picture of a video of this size, and the panel's."""
    width, height = width + width % 2, height + height % 2
    times = magnification(width, height)
    panel = Panel(times * width, times * height, LABELS)
    return times * width, times * height, panel.body_px + panel.strip_px


def chip(image):
    """Return the colour of the mark beside the label."""
    panel = next(px for px in range(40, len(image)) if is_panel_of(image, px))
    return image[len(image) - panel + 16, 8]


def is_panel_of(image, px):
    panel = Panel(image.shape[1], len(image) - px, LABELS)
    return px == panel.body_px + panel.strip_px


def near(pixel, colour):
    return np.abs(np.asarray(pixel, int) - colour).max() < 45


@pytest.mark.parametrize("size", [(240, 320), (97, 131), (48, 32)])
def test_every_frame_is_there_at_its_time_and_all_of_it_is_seen(tmp_path, model, size):
    height, width = size
    images = coloured(("red", 40), ("green", 40), height=height, width=width)
    video = write_video(tmp_path / "v.mkv", images, pix_fmt="yuv444p")
    images, times = overlaid(video, tmp_path / "o.mp4", model)
    assert len(images) == 80
    width, height, panel_px = picture_px(width, height)
    assert images[0].shape == (height + panel_px, width, 3)
    assert times == pytest.approx([n / 25 for n in range(80)], abs=1e-4)
    # the whole picture is above the panel, and the strip at the foot shows what was found
    for row in (2, height - 3):
        assert near(images[5][row, width // 2], (250, 5, 5))
        assert near(images[75][row, width // 2], (5, 250, 5))
    red, green = class_colour(0), class_colour(1)
    assert near(images[-1][-2, 2], red)
    assert near(images[-1][-2, round(width * 0.8)], green)


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (6, 6), (1, 40), (40, 2)])
def test_tiny_pictures(tmp_path, model, size):
    height, width = size
    images = coloured(("red", 8), height=height, width=width)
    video = write_video(tmp_path / "v.mkv", images, codec="ffv1", pix_fmt="yuv444p")
    images, _ = overlaid(video, tmp_path / "o.mp4", model)
    width, height, panel_px = picture_px(width, height)
    assert [i.shape for i in images] == [(height + panel_px, width, 3)] * 8
    assert max(width, height) <= 1920


def test_a_variable_frame_rate_stays_one(tmp_path, model):
    ticks = np.cumsum([0, *([1, 1, 4, 2] * 12)]).tolist()
    images = coloured(("blue", len(ticks)))
    options = {"pix_fmt": "yuv444p", "ticks": ticks, "time_base": Fraction(1, 30)}
    video = write_video(tmp_path / "v.mkv", images, **options)
    _, times = overlaid(video, tmp_path / "o.mp4", model)
    assert times == pytest.approx([t / 30 for t in ticks], abs=2e-3)


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(25), Fraction(10)])
def test_the_frame_rate_is_the_source_s(tmp_path, model, rate):
    images = coloured(("blue", 40))
    video = write_video(tmp_path / "v.mp4", images, time_base=1 / rate)
    overlaid(video, tmp_path / "o.mp4", model)
    with av.open("o.mp4") as container:
        assert container.streams.video[0].average_rate == rate


def test_rotated_and_real_clips(tmp_path, model):
    images, times = overlaid(shared_clip("dec_video_90.mov"), tmp_path / "o.mp4", model)
    assert images[0].shape == (568 + picture_px(320, 568)[2], 320, 3)
    assert len(times) == 3


def test_each_frame_is_decoded_once_and_few_wait(tmp_path, model):
    class Counted:
        name, live, rewindable, duration_s = "counted", False, True, None
        given = 0

        def frames(self):
            for n, image in enumerate(coloured(("red", 200), ("green", 200))):
                self.given += 1
                yield Frame(image, n / 20, n)

        def close(self):
            pass

    source, most = Counted(), 0
    writer = OverlayVideo(tmp_path / "o.mkv", LABELS)
    with Recognizer(model) as recognizer:
        for prediction in recognizer.stream(ObservedSource(source, writer.add)):
            most = max(most, len(writer))
            writer.write(prediction)
    writer.finish()
    writer.close()
    assert source.given == len(decoded(tmp_path / "o.mkv")[0]) == 400
    # at the start a whole window of 1 s waits, which is 20 frames, and then what the reading thread
    # is ahead: up to four hops of 0.25 s
    assert most <= 22 + 4 * 5


def prediction(label, start_s, end_s):
    scores = np.eye(3, dtype=np.float32)[LABELS.index(label)]
    top = ((label, 1.0),)
    return Prediction(label, LABELS.index(label), 1.0, scores, top, start_s, end_s)


def test_a_frame_shows_the_window_whose_centre_is_nearest(tmp_path):
    writer = OverlayVideo(tmp_path / "o.mkv", LABELS)
    for n in range(30):
        writer.add(Frame(np.full((120, 160, 3), 128, np.uint8), n / 10, n))
    writer.write(prediction("red", 0.0, 1.0))
    writer.write(prediction("blue", 1.0, 2.0))
    assert len(writer) == 15  # the next window may be nearer to what is after 1.5 s
    writer.finish()
    images, times = decoded(tmp_path / "o.mkv")
    colours = [class_colour(0) if t < 1.0 - 1e-6 else class_colour(2) for t in times]
    assert all(near(chip(image), colour) for image, colour in zip(images, colours, strict=True))


def test_a_long_window_speaks_for_its_own_frames_alone(tmp_path):
    writer = OverlayVideo(tmp_path / "o.mkv", LABELS)
    times = [*range(60), 65]
    for n, time_s in enumerate(times):
        writer.add(Frame(np.full((120, 160, 3), 128, np.uint8), float(time_s), n))
    writer.write(prediction("red", 0.0, 60.0))
    writer.write(prediction("blue", 65.0, 65.25))  # midway between both would be 47.6 s
    writer.finish()
    chips = [chip(image) for image in decoded(tmp_path / "o.mkv")[0]]
    assert [near(colour, class_colour(2)) for colour in chips] == [False] * 60 + [True]


def test_few_frames_wait_where_gaps_are_closer_than_a_window(tmp_path, model):
    # 40 s in stretches of 0.7 s: each is shorter than the window of 1 s
    times = [n / 20 + 2.0 * (n // 14) for n in range(14 * 20)]
    images = itertools.repeat(coloured(("red", 1), height=16, width=16)[0])
    writer, most, count = OverlayVideo(tmp_path / "o.mkv", LABELS), 0, 0
    source = open_source(
        [Frame(i, t, n) for n, (i, t) in enumerate(zip(images, times, strict=False))]
    )
    with Recognizer(model) as recognizer:
        for prediction in recognizer.stream(ObservedSource(source, writer.add)):
            most, count = max(most, len(writer)), count + 1
            writer.write(prediction)
    writer.finish()
    assert count == 20
    assert most <= 14 * 6  # this stretch, the next one, and what the reading thread is ahead
    assert len(decoded(tmp_path / "o.mkv")[0]) == len(times)


def test_what_waits_is_bounded_and_what_could_not_wait_is_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dvfl_runtime.draw.overlay.MAX_WAITING_BYTES", 20 * 3 * 120 * 160 // 2)
    writer = OverlayVideo(tmp_path / "o.mkv", LABELS)
    for n in range(50):
        writer.add(Frame(np.full((120, 160, 3), 128, np.uint8), n / 10, n))
        assert len(writer) == min(n + 1, 20)
        if n == 29:
            writer.write(prediction("red", 0.0, 2.0))  # of which 1.0 s to 2.0 s still wait
    writer.finish()
    writer.finish()
    (message,) = [r.getMessage() for r in caplog.records]
    assert message.startswith("30 frames of the overlay were drawn before the answer")
    drawn = [near(chip(image), class_colour(0)) for image in decoded(tmp_path / "o.mkv")[0]]
    assert drawn == [False] * 10 + [True] * 40


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_an_overlay_goes_on_over_a_gap_of_a_night(tmp_path, suffix):
    writer = OverlayVideo(tmp_path / f"o.{suffix}", LABELS)
    evening = [n / 10 for n in range(10)]
    for n, time_s in enumerate([*evening, *(100_000 + s for s in evening)]):
        writer.add(Frame(np.full((32, 32, 3), 128, np.uint8), time_s, n))
    writer.finish()
    _, times = decoded(tmp_path / f"o.{suffix}")
    assert times[:10] == pytest.approx(evening, abs=1e-3)
    assert times[-10:] == pytest.approx([100_000 + s for s in evening], abs=1e-3)
    assert len(times) < 50  # between them the last picture is repeated, for MP4 is limited


def test_without_any_prediction_the_pictures_are_kept(tmp_path):
    writer = OverlayVideo(tmp_path / "o.mp4", LABELS)
    writer.add(Frame(np.full((64, 64, 3), 200, np.uint8), 5.0, 0))
    writer.finish()
    writer.finish()
    images, times = decoded(tmp_path / "o.mp4")
    assert times == [0.0]
    assert near(images[0][60, 30], (200, 200, 200))


def test_a_source_that_changes_its_size_keeps_the_first_one(tmp_path):
    writer = OverlayVideo(tmp_path / "o.mp4", LABELS)
    for n, side in enumerate((64, 96, 33, 64)):
        writer.add(Frame(np.full((side, side, 3), 200, np.uint8), n / 10, n))
    writer.finish()
    assert {image.shape for image in decoded(tmp_path / "o.mp4")[0]} == {
        (320 + picture_px(64, 64)[2], 320, 3)
    }


@pytest.mark.parametrize("size", [(120, 160), (121, 161), (20, 20)])
def test_the_region_is_outlined_in_the_colour_of_its_class(tmp_path, size):
    writer = OverlayVideo(tmp_path / "o.mkv", LABELS)
    seen = prediction("blue", 0, 1), prediction("blue", 1, 2)
    boxed = dataclasses.replace(seen[0], region=(0.25, 0.1, 0.5, 0.4))
    for n in range(10):
        writer.add(Frame(np.full((*size, 3), 128, np.uint8), n / 5, n))
    for one in (boxed, seen[1]):
        writer.write(one)
    writer.finish()
    pictures, _ = decoded(tmp_path / "o.mkv")
    width, height, _ = picture_px(*size[::-1])
    (left, right), y = (round(x * width / 2) * 2 for x in (0.25, 0.75)), round(0.3 * height)
    colour = class_colour(LABELS.index("blue"))
    assert near(pictures[0][y, left : left + 2].mean(0), colour)
    assert near(pictures[0][y, right - 2 : right].mean(0), colour)
    for place in (width // 2, left - 4, right + 3):
        assert near(pictures[0][y, place], (128, 128, 128))
    assert near(pictures[-1][y, left], (128, 128, 128))  # the whole picture has no border


@pytest.mark.parametrize("size", [(120, 160), (121, 161), (20, 20)])
def test_each_region_of_a_window_has_its_border_and_its_tag(tmp_path, size):
    writer = OverlayVideo(tmp_path / "o.mkv", LABELS)
    left, right = (0.0, 0.1, 0.4, 0.4), (0.6, 0.1, 0.4, 0.4)
    for n in range(10):
        writer.add(Frame(np.full((*size, 3), 128, np.uint8), n / 5, n))
    for k in (0, 1):
        first = dataclasses.replace(prediction("blue", k, k + 1), region=left, track_id="door")
        second = dataclasses.replace(prediction("red", k, k + 1), region=right, track_id=2)
        for one in (first, second) if k else (second, first):
            writer.write(one)
        assert len(writer) == 10 - 5 * k  # a window may have further regions
    writer.finish()
    pictures, times = decoded(tmp_path / "o.mkv")
    assert len(times) == 10
    width, height, _ = picture_px(*size[::-1])
    bottom = round(0.5 * height / 2) * 2 - 1
    for image in pictures[:: len(pictures) - 1]:
        assert near(image[bottom, round(0.2 * width)], class_colour(LABELS.index("blue")))
        assert near(image[bottom, round(0.8 * width)], class_colour(LABELS.index("red")))
        tag = image[round(0.1 * height) - 10 : round(0.1 * height) - 4, 2:40]  # above it
        assert near(np.median(tag, (0, 1)), class_colour(LABELS.index("blue")))
        assert tag.std() > 10  # letters


CLOSE = [(0.0, 0.0, 0.5, 1.0), (0.1, 0.0, 0.5, 1.0), (0.1, 0.0, 0.6, 0.9), (0.8, 0.5, 0.2, 0.2)]


@pytest.mark.parametrize("size", [(320, 320), (360, 640), (32, 200)])
def test_tags_are_in_the_picture_and_cover_no_other_tag(size):
    height = size[0]
    names = [f"{n}: putting something on top of something" for n in range(len(CLOSE))]
    colours = [class_colour(n + 1) for n in range(len(CLOSE))]
    grey = to_yuv(np.full((*size, 3), 128, np.uint8))
    alone = []  # the pixels of each tag
    for mark in zip(CLOSE, names, colours, strict=True):
        planes = grey.copy()
        tags(planes, [mark])
        alone.append(int((planes[:height] != grey[:height]).sum()))
    assert all(alone)
    planes = grey.copy()
    tags(planes, list(zip(CLOSE, names, colours, strict=True)))
    if height > 100:  # else there is no room for all
        assert int((planes[:height] != grey[:height]).sum()) == sum(alone)


@pytest.mark.parametrize("class_id", [*range(-1, 12), 17, 23, 53, 353])
def test_letters_are_readable_on_the_colour_of_each_class(class_id):
    def luminance(colour):
        part = np.asarray(colour) / 255
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    def contrast(ink, ground):
        low, high = sorted((luminance(ink), luminance(ground)))
        return (high + 0.05) / (low + 0.05)

    colour = class_colour(class_id)
    assert contrast(ink_on(colour), colour) >= 4.5
    bar = np.array(colour) * FILL_PART
    assert contrast(WHITE, bar) >= 4.5
    assert contrast(GREY, bar) >= 3  # of less likely classes


def test_every_encoder_here_gives_a_playable_video(tmp_path, monkeypatch):
    for codec in set(ENCODERS) & av.codecs_available:
        monkeypatch.setattr("dvfl_runtime.draw.encoding.ENCODERS", {codec: ENCODERS[codec]})
        file = VideoWriter(tmp_path / f"{codec}.mp4")
        for n in range(10):
            file.add(to_yuv(np.full((48, 64, 3), 100, np.uint8)), n / 29.97)
        file.finish()
        assert len(decoded(tmp_path / f"{codec}.mp4")[0]) == 10


def test_the_colours_survive(tmp_path):
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, :32], image[:, 32:64], image[:, 64:] = (200, 40, 40), (40, 200, 40), (40, 40, 200)
    file = VideoWriter(tmp_path / "c.mp4")
    for n in range(3):
        file.add(to_yuv(image), n / 25)
    file.finish()
    seen = decoded(tmp_path / "c.mp4")[0][1]
    assert np.abs(seen[16, ::32][:3].astype(int) - image[16, ::32]).max() < 90  # at the edges
    assert np.abs(seen[16, 16::32].astype(int) - image[16, 16::32]).max() < 12


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_one_error_with_a_reason(tmp_path):
    (tmp_path / "full.mkv").symlink_to("/dev/full")
    writer = OverlayVideo(tmp_path / "full.mkv", LABELS)
    for n in range(50):
        noise = np.random.default_rng(n).integers(0, 255, (64, 64, 3), np.uint8)
        writer.add(Frame(noise, n / 25, n))
    with pytest.raises(OutputError, match="No space left"):
        writer.finish()
    writer.close()


def test_without_pyav_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(OutputError, match="writing video needs av"):
        OverlayVideo(tmp_path / "o.mp4", LABELS)
    assert list(tmp_path.iterdir()) == []


def test_only_containers_that_can_be_written():
    check_overlay_suffix(Path("a.MP4"))
    with pytest.raises(OutputError, match=r"a\.avi.*\.mp4, \.mov, \.mkv"):
        check_overlay_suffix(Path("a.avi"))
