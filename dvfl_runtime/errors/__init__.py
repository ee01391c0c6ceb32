"""Every error that dvfl raises on purpose.

    DvflError
    ├── ArgumentError       an argument is of the wrong type or out of its range; also a ValueError
    │   ├── ClipError           a clip has the wrong type, rank, channels or length
    │   ├── EngineUnavailable   an engine or device that was asked for cannot be used
    │   └── RecipeError         a training recipe or a data set it names is wrong
    ├── SourceError         a video source cannot be opened, or no frame of it can be read
    ├── ArtifactError       a model file is missing, damaged, foreign or too new
    ├── CheckpointError     a PyTorch checkpoint cannot be read or does not fit the model
    ├── ExportError         an export could not be made or did not agree with PyTorch
    └── OutputError         an output file cannot be written

The commands turn each of them into one line on standard error and exit status 2.
"""


class DvflError(Exception):
    """Base of all errors raised by dvfl; the message names the problem, the value and the fix."""


class ArgumentError(DvflError, ValueError):
    """An argument is of the wrong type or out of its range."""


class SourceError(DvflError):
    """A source cannot be opened, or no frame of it can be decoded."""


class ClipError(ArgumentError):
    """A clip handed to the API is not a (T, H, W, 3) uint8 array."""


class ArtifactError(DvflError):
    """A model file is not a readable dvfl artifact."""


class EngineUnavailable(ArgumentError):
    """An explicitly chosen engine, provider or device cannot be used here."""


class CheckpointError(DvflError):
    """A checkpoint cannot be read or does not fit the model."""


class RecipeError(ArgumentError):
    """A training recipe, or a data set that it names, is wrong."""


class ExportError(DvflError):
    """An export could not be made, or does not agree with PyTorch."""


class OutputError(DvflError):
    """An output file cannot be written."""
