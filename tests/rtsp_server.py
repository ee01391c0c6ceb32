"""A real RTSP server for the tests: GStreamer's, run by the system's Python with Debian's packages.

    python3 rtsp_server.py STREAM... [--port 0] [--kind h264] [--loss 0.0] [--user NAME:PASSWORD]

Serves rtsp://127.0.0.1:PORT/live and prints "PORT n" when it listens. A STREAM is a file of
access units, each with its length before it (see streams.py); several play one after the other at
25 Hz, all of them for ever. For each unit that goes out a line "SENT n MONOTONIC_NS" follows.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import chain, count
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - the versions come first

PERIOD_MS = 40
KINDS = {  # caps of the access units, and the element that makes packets of them; the one for JPEG
    # wants pictures in the form that its own encoder writes
    "h264": ("video/x-h264,stream-format=byte-stream,alignment=au", "rtph264pay"),
    "h265": ("video/x-h265,stream-format=byte-stream,alignment=au", "rtph265pay"),
    "jpeg": ("image/jpeg ! jpegdec ! jpegenc", "rtpjpegpay"),
    "sound": ("audio/x-raw,format=S16BE,layout=interleaved,rate=8000,channels=1", "rtpL16pay"),
}


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def units(path: Path) -> list[bytes]:
    data = path.read_bytes()
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


class Feed:
    """Pushes one access unit after the other into the media that clients share."""

    def __init__(self, paths: list[Path]) -> None:
        self.units = list(chain.from_iterable(units(path) for path in paths))

    def start(
        self, factory: GstRtspServer.RTSPMediaFactory, media: GstRtspServer.RTSPMedia
    ) -> None:
        source = media.get_element().get_by_name_recurse_up("src")
        numbers = count()

        def push() -> bool:
            number = next(numbers) % len(self.units)
            buffer = Gst.Buffer.new_wrapped(self.units[number])
            if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                return False
            tell("SENT", number, time.monotonic_ns())
            return True

        GLib.timeout_add(PERIOD_MS, push)


def protect(
    server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, user: str
) -> None:
    name, _, password = user.partition(":")
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(name, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("user", "media.factory.access", True)
    permissions.add_permission_for_role("user", "media.factory.construct", True)
    factory.set_permissions(permissions)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("streams", nargs="+", type=Path)
    parser.add_argument("--port", default="0")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--kind", choices=KINDS, default="h264")
    parser.add_argument("--user")
    args = parser.parse_args()
    Gst.init(None)
    feed = Feed(args.streams)
    caps, payloader = KINDS[args.kind]
    packets = f"{payloader} name=pay0 pt=96"
    if args.loss:  # packets vanish between the payloader and the network
        packets = f"{payloader} pt=96 mtu=300 ! identity name=pay0 drop-probability={args.loss}"
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( appsrc name=src is-live=true do-timestamp=true format=time caps={caps} ! {packets} )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", feed.start)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(args.port)
    if args.user:
        protect(server, factory, args.user)
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit(f"cannot listen on port {args.port}")
    tell("PORT", server.get_bound_port())
    loop = GLib.MainLoop()
    # the test that started this server holds the other end of its input
    hangup = GLib.IOCondition.HUP
    GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, hangup, lambda *_: loop.quit())
    loop.run()


if __name__ == "__main__":
    main()
