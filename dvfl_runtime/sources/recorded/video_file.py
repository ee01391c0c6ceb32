"""Reads the whole pictures of a video file, and their times as its container states them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.sources.decoding.container import open_container, packets_of
from dvfl_runtime.sources.decoding.decoder import BEGINS, Decoder
from dvfl_runtime.sources.decoding.picture import MAX_PIXELS
from dvfl_runtime.sources.recorded.media import NAMELESS, Readable, Video, advice_of, name_of
from dvfl_runtime.sources.timestamps import FileTimestamps

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

DEFAULT_FPS = 25  # where nothing states a rate
MAX_KEPT_BYTES = 32 << 20  # of packets in memory
NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS, libav's flag of formats that store none


class PacketTime(NamedTuple):
    """When the picture of a packet is shown, as `VideoFrame` calls it, and whether it is at all."""

    pts: int | None
    dts: int | None
    is_discard: bool


class VideoFile:
    """The best video stream of an open file.

    Args:
        video: the path of a file, or another object that can be opened again and again.
        num_threads: threads of the decoder.
        fps: the rate of a file that has no timestamps.

    Attributes:
        error: why the packets ended before the file did; empty if they did not.

    Raises:
        SourceError: if it cannot be opened, or has no video in it.
    """

    def __init__(self, video: Video, num_threads: int, fps: float | None) -> None:
        self.error = ""
        self._demuxed: deque[av.Packet[VideoStream]] | None = None
        with ExitStack() as stack:  # PyAV closes only files that it opened itself
            data = None if isinstance(video, Path) else stack.enter_context(closing(video.open()))
            self._container, self._stream = open_video(video, data)
            stack.callback(self._container.close)
            # workers of an AV1 decoder (dav1d) free packets, for which they wait for Python's lock;
            # the context is freed under that lock and would wait for them, without an end
            stack.callback(self._stream.codec_context.flush_buffers)
            self._opened = stack.pop_all()
        self._stream.thread_type = "AUTO" if num_threads > 1 else "NONE"
        self._stream.codec_context.thread_count = num_threads
        self._path = video if isinstance(video, Path) else None
        self._is_avi = self._container.format.name == "avi"
        form = self._container.format
        # bare video: pictures one after another, without timestamps
        self._is_bare = bool(int(form.flags) & NO_TIMESTAMPS) or form.name.endswith("_pipe")
        self._fps = fps if self._is_bare else None

    @property
    def codec(self) -> str:
        """FFmpeg's name of the decoder."""
        return self._stream.codec_context.name

    @property
    def has_timestamps(self) -> bool:
        """Whether the container tells when each picture is shown; AVI and bare video do not."""
        return not (self._is_bare or self._is_avi)

    @property
    def is_timed(self) -> bool:
        """Whether timestamps, a header or the caller tell when frames are shown."""
        return not self._is_bare or self._rate is not None

    @property
    def _rate(self) -> float | None:
        """Frames per second; `None` if unknown."""
        if self._fps is not None:
            return self._fps
        rate = self._stream.average_rate or self._stream.guessed_rate
        if self._is_bare:  # libav assumes 25; the decoder knows the rate in the headers
            rate = self._stream.codec_context.framerate
        return float(rate) if rate and 0 < rate <= 1000 else None

    @property
    def duration_s(self) -> float | None:
        """The container's estimate of when the last frame has been shown, seconds."""
        if self._stream.duration and self._stream.time_base:
            begin_s = shown_s(self._container, self._stream, self._stream.start_time)
            return begin_s + float(self._stream.duration * self._stream.time_base)
        if self._container.duration:
            return self._container.duration / 1e6  # AV_TIME_BASE
        return None

    def timestamps_from(self, first: VideoFrame | PacketTime) -> FileTimestamps:
        """Return the conversion of timestamps to times, which begins with this first picture."""
        stamp = first.dts if first.pts is None else first.pts
        begin_s = 0.0 if self._is_bare else shown_s(self._container, self._stream, stamp)
        time_base = self._stream.time_base or Fraction(1, 1000)
        return FileTimestamps(time_base, 1 / (self._rate or DEFAULT_FPS), begin_s)

    def timestamp(self, raw: VideoFrame | PacketTime) -> int | None:
        """Return the timestamp of a picture, ticks; `None` if it has no usable one."""
        if self._fps is not None:
            return None
        # AVI stores no presentation times: those that the decoder reports run backwards at every
        # B-frame, while the decoding times of the pictures as they come out are even.
        if self._is_avi or raw.pts is None:
            return raw.dts
        return raw.pts

    def decoder(self, first: int, *, strict: bool) -> Decoder:
        """Return a decoder for the packets from number `first` on."""
        return Decoder(self._stream, self._path, first=first, strict=strict)

    def skip_unreferenced(self, skip: bool) -> None:
        """Let the decoder leave out, or not, the next picture if no other picture refers to it.

        It saves a third of the work on H.264 with B-frames. Other decoders are not asked to: their
        streams do not mark such pictures, or FFmpeg then gives other pixels for later ones (AV1,
        MPEG-4 with packed B-frames).
        """
        if self.codec == "h264":
            self._stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"

    def packets(self) -> Iterator[av.Packet[VideoStream]]:
        """Yield the packets of the video stream, up to the first that cannot be read."""
        import av

        if self._demuxed is not None:
            while self._demuxed:
                yield self._demuxed.popleft()
            return
        try:
            for packet in packets_of(self._container, self._stream):
                if packet.size:  # an empty packet would tell the decoder that the file is over
                    yield packet
        except (av.FFmpegError, OSError) as err:  # OSError: from an object that is no path
            self.error = err.strerror or str(err) or type(err).__name__

    def demuxed(self) -> tuple[list[PacketTime], bool]:
        """Read all packets of the video stream, which decodes nothing.

        Returns:
            When they are shown, and whether `packets()` can still be called: those of a large file
            are not kept.
        """
        times, size = [], 0
        kept: deque[av.Packet[VideoStream]] = deque()
        for packet in self.packets():
            times.append(PacketTime(packet.pts, packet.dts, packet.is_discard))
            size += packet.size
            if size <= MAX_KEPT_BYTES:
                kept.append(packet)
        self._demuxed = kept
        return times, size <= MAX_KEPT_BYTES

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


class _Picture(NamedTuple):
    """A whole picture, its timestamp, and how many of the file were left out before it."""

    raw: VideoFrame
    ticks: int | None
    left_out: int


class _Keyframe(NamedTuple):
    """A keyframe's packet and number, and how many pictures were left out before it."""

    packet: int = 0
    picture: int = 0
    left_out: int = 0


class PictureReader:
    """Reads the whole pictures of a file, in up to three passes.

    The first pass decodes with threads. If anything is wrong it ends, and the next pass goes on
    from the last keyframe without threads, because only then it is known which pictures are whole.
    If none is whole, the last pass takes the pictures that the decoder could conceal.

    Args:
        file: the file, at its beginning.
        reopen: opens it again, with one thread.

    Attributes:
        count: pictures handed out.
        left_out: pictures of the file that are not whole.
        damage: what was wrong first; empty if nothing was.
        damaged_after: number of the last good picture before it, -1 for none.
    """

    def __init__(self, file: VideoFile, reopen: Callable[[], VideoFile]) -> None:
        self.count = self.left_out = 0
        self.damage, self.damaged_after = "", -1
        self._keyframe = _Keyframe()  # where the next pass begins
        self._file, self._reopen = file, reopen

    @property
    def codec(self) -> str:
        """FFmpeg's name of the decoder."""
        return self._file.codec

    @property
    def is_cut_off(self) -> bool:
        """Whether the packets ended before the file did."""
        return bool(self._file.error)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def pictures(self) -> Iterator[tuple[VideoFrame, float]]:
        """Yield the pictures and their times, seconds, in the order in which they are shown."""
        timestamps: FileTimestamps | None = None
        for picture, following in pairwise(chain(self._whole_pictures(), [None])):
            assert picture is not None  # only `following` can be
            raw, ticks, left_out = picture
            timestamps = timestamps or self._file.timestamps_from(raw)
            yield raw, timestamps.time_s(ticks, following and following.ticks, left_out)

    def _whole_pictures(self) -> Iterator[_Picture]:
        strict = True
        while True:
            start = self._keyframe
            decoder = self._file.decoder(start.packet, strict=strict)
            yield from self._one_pass(decoder, start)
            self.left_out = start.left_out + decoder.left_out
            if not decoder.has_given_up:
                if not strict or self.count or not self.damage:
                    return
                strict = False
            self._file.close()
            self._file = self._reopen()

    def _one_pass(self, decoder: Decoder, start: _Keyframe) -> Iterator[_Picture]:
        number = start.picture
        for pictures in self._decoded(decoder, start.packet):
            begins = decoder.reason == BEGINS
            self._note_damage(decoder.reason, -1 if begins else number + len(pictures) - 1)
            for raw in pictures:
                if (packet := decoder.keyframe_packet(raw)) is not None:
                    self._keyframe = _Keyframe(packet, number, start.left_out + decoder.left_out)
                number += 1
                if number > self.count:  # not yet handed out by the pass before
                    self.count = number
                    left_out = start.left_out + decoder.left_out
                    yield _Picture(raw, self._file.timestamp(raw), left_out)
        self._note_damage(self._file.error, number - 1)

    def _decoded(self, decoder: Decoder, first: int) -> Iterator[list[VideoFrame]]:
        """Yield the whole pictures after each packet from number `first` on."""
        for number, packet in enumerate(self._file.packets()):
            if number >= first:
                yield decoder.decode(packet)
                if decoder.has_given_up:
                    return
        pictures = decoder.finish()
        if not decoder.has_given_up:
            yield pictures

    def _note_damage(self, reason: str, last_good: int) -> None:
        if reason and not self.damage:
            self.damage, self.damaged_after = reason, last_good


def open_video(video: Video, data: Readable | None = None) -> tuple[InputContainer, VideoStream]:
    """Open the container and find its video stream.

    PyAV mutes libav's own log unless the application turns it on, so nothing is set here.

    Args:
        video: the path of the file, or an object whose name and advice errors use.
        data: is read instead of a path; it stays open.
    """
    with needed("reading video files", *MEDIA):
        import av
    name = name_of(video)
    if name == NAMELESS and not isinstance(video, Path):
        name = "the bytes"
    try:
        # "file:" keeps a colon in a name from being read as a protocol. The whitelist keeps
        # playlist files from opening connections, and playlists from a connection from files.
        if isinstance(video, Path):
            container = open_container(f"file:{video}", options={"protocol_whitelist": "file"})
        else:
            container = open_container(data, options={"protocol_whitelist": "none"})
    except (av.FFmpegError, OSError) as err:
        raise SourceError(
            f"cannot open {name} as a video: {err.strerror or err}; "
            f"{advice_of(video, 'check that it is a complete video file')}"
        ) from err
    stream = _best_stream(container)
    if not len(container.streams):
        problem = "it holds no streams; check that it is a complete video file"
    elif container.format.name == "tty":  # libav draws any .txt file as a terminal
        problem = "it is a text file; pass a video file"
    elif stream is None:
        problem = "it has no video stream that can be decoded; pass a file with video"
    elif _pixels(stream) > MAX_PIXELS:
        codec = stream.codec_context
        problem = (
            f"its pictures of {codec.width} x {codec.height} px are larger than "
            f"{MAX_PIXELS / 1e6:.0f} megapixels; make them smaller"
        )
    else:
        return container, stream
    container.close()
    raise SourceError(f"cannot open {name} as a video: {problem}")


def _best_stream(container: InputContainer) -> VideoStream | None:
    """Return the stream that a player shows; of equal ones the largest."""
    from av.stream import Disposition

    def kind(stream: VideoStream) -> tuple[str, object]:
        return stream.codec_context.name, stream.disposition & Disposition.default

    covers = Disposition.attached_pic
    streams = [s for s in container.streams.video if s.codec_context and not s.disposition & covers]
    streams = [s for s in streams if s.frames != 1] or streams  # no stills; 0 means unknown
    best = next((s for s in streams if s is container.streams.best("video")), None)
    equal = streams if best is None else [s for s in streams if kind(s) == kind(best)]
    return max(equal, key=_pixels, default=None)


def _pixels(stream: VideoStream) -> int:
    return stream.codec_context.width * stream.codec_context.height


def shown_s(container: InputContainer, stream: VideoStream, stamp: int | None) -> float:
    """Return when a timestamp is shown, seconds from where a player begins to count."""
    if stamp is None or stream.time_base is None or container.start_time is None:
        return 0.0
    return max(0, round(stamp * stream.time_base * 1_000_000) - container.start_time) / 1e6
