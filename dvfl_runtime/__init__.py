"""On-device recognition of human actions in video.

from dvfl_runtime import Recognizer

with Recognizer() as recognizer:
    for segment in recognizer.segments("video.mp4"):
        print(segment.start_s, segment.end_s, segment.label)
"""

from dvfl_runtime.artifact import Artifact
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.engines.fake import FakeEngine
from dvfl_runtime.errors import (
    ArgumentError,
    ArtifactError,
    ClipError,
    DvflError,
    EngineUnavailable,
    OutputError,
    SourceError,
)
from dvfl_runtime.recognizer import Recognizer
from dvfl_runtime.results import Event, Info, Prediction, Segment
from dvfl_runtime.sources import (
    Frame,
    Grabbed,
    Grabber,
    LiveOptions,
    LiveSource,
    RtspGrabber,
    Source,
)
from dvfl_runtime.streams.smoothing import Smoothing
from dvfl_runtime.version import __version__

__all__ = [
    "ArgumentError",
    "Artifact",
    "ArtifactError",
    "ClipError",
    "ClipSpec",
    "DvflError",
    "EngineUnavailable",
    "Event",
    "FakeEngine",
    "Frame",
    "Grabbed",
    "Grabber",
    "Info",
    "LiveOptions",
    "LiveSource",
    "OutputError",
    "Prediction",
    "Recognizer",
    "RtspGrabber",
    "Segment",
    "Smoothing",
    "Source",
    "SourceError",
    "__version__",
]
