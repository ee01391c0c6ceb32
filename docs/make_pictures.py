"""Draws the pictures of README.md from the bundled clip, which this project has drawn itself.

python docs/make_pictures.py   # needs the extras cpu and serve, Pillow, playwright and Chromium
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import av
from PIL import Image
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).parent.parent
CLIP = ROOT / "dvfl_runtime" / "data" / "demo.mp4"
PICTURES = Path(__file__).parent / "pictures"
SIDE_PX, FPS, SECONDS, COLOURS = 384, 6, 20, 128
WORKSHOP_BEGINS_S = 6.5  # so that both sources show an action at once
BOTH_ACT = ["wave_one_hand", "jumping_jack"]
COMMAND = [sys.executable, "-m", "dvfl_runtime.app.cli"]


def enlarge(path: Path, begin_s: float = 0.0) -> None:
    """Write the clip, from a time on, in a size that people look at."""
    with av.open(str(CLIP)) as clip, av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=clip.streams.video[0].average_rate)
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "12"}
        for frame in clip.decode(video=0):
            if frame.time < begin_s:
                continue
            image = frame.to_image().resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
            out.mux(stream.encode(av.VideoFrame.from_image(image)))
        out.mux(stream.encode())


def animate(video: Path, path: Path) -> None:
    """Write the first seconds of a video as an animated GIF."""
    images: list[Image.Image] = []
    with av.open(str(video)) as clip:
        for frame in clip.decode(video=0):
            if frame.time >= SECONDS:
                break
            if frame.time * FPS >= len(images):
                images.append(frame.to_image())
    seen = Image.new("RGB", (images[0].width, images[0].height * len(images[::8])))
    for n, image in enumerate(images[::8]):
        seen.paste(image, (0, n * image.height))
    # the colours of all actions; an octree keeps the rare ones
    palette = seen.quantize(COLOURS, Image.Quantize.FASTOCTREE)
    first, *rest = (image.quantize(palette=palette, dither=0) for image in images)
    first.save(path, save_all=True, append_images=rest, duration=1000 // FPS, loop=0)


def photograph_page(videos: list[Path], path: Path) -> None:
    """Write what the page of --serve shows in the middle of two actions."""
    words = [*COMMAND, *(video.name for video in videos), "--serve", "0"]
    with sync_playwright() as playwright:  # before the videos begin to play
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        with subprocess.Popen(
            words, cwd=videos[0].parent, stderr=subprocess.PIPE, text=True
        ) as served:
            assert served.stderr is not None
            line = next(line for line in served.stderr if "serving at" in line)
            (url,) = re.findall(r"http://\S+", line)
            page.goto(url)
            expect(page.locator(".label")).to_have_text(BOTH_ACT, timeout=30_000)
            page.wait_for_timeout(1000)
            page.screenshot(path=path)
            served.terminate()
        browser.close()


def main() -> None:
    """Draw all of them."""
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        door, workshop = Path(folder) / "front_door.mp4", Path(folder) / "workshop.mp4"
        enlarge(door)
        enlarge(workshop, WORKSHOP_BEGINS_S)
        seen = Path(folder) / "seen.mp4"
        subprocess.run([*COMMAND, door, "--overlay", seen], check=True, stdout=subprocess.DEVNULL)
        animate(seen, PICTURES / "demo.gif")
        photograph_page([door, workshop], PICTURES / "page.png")


if __name__ == "__main__":
    main()
