"""The tables of a training recipe."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

Format = Literal["index", "list", "paths", "folders", "ucf", "hmdb", "kinetics", "ssv2"]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # all generators accept this range


class Table(BaseModel):
    """A table of a recipe: unknown keys are errors, numbers are finite, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelTable(Table):
    """The network, and where its first weights come from."""

    variant: str
    init: Literal["official", "xavier"] = "official"
    start: str = ""  # a checkpoint whose weights the run starts from
    new_head: bool = False  # take all of `start` but its head, which knows other classes
    widen: bool = False  # `start` is 2, 3 ... times narrower; see `network.initialisation`
    imagenet: str = ""  # an ImageNet FocalNet (SRF) checkpoint for the spatial part
    scratch: bool = True  # random weights may do; false: without `start` or `imagenet` no run
    drop_path: float = Field(0.0, ge=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> ModelTable:
        if self.widen and not self.start:
            raise ValueError("widen goes with start, the checkpoint of the narrower network")
        return self


class ClipsTable(Table):
    """Clips to train on or to test with."""

    weight: float = Field(1.0, gt=0)  # share of the batches, relative to the other tables
    # of their own, which another head learns that no file keeps; () = those of the recipe
    labels: tuple[str, ...] = ()


class RenderedTable(ClipsTable):
    """Clips that are drawn, as many as a run asks for."""

    clips: int = Field(0, ge=0)  # of a test set, per class
    first_seed: Seed = 0  # test sets start far from the seeds of training


class SyntheticTable(RenderedTable):
    """Clips of people, drawn by `rendered.synthetic`."""

    kind: Literal["synthetic"]
    name: str = "synthetic"
    window_s: tuple[float, float] = (1.2, 4.0)  # a clip's span is drawn from this range
    clean: bool = False  # easy scenes: one person well in the picture, a quiet background
    change: bool = False  # the action changes within the clip; the middle of it gives the class
    room: tuple[float, float] = (1.0, 1.0)  # sides of the picture, in those that a person fills


class OrderTable(RenderedTable):
    """Clips of `rendered.temporal_order`, whose classes differ in the order of frames alone."""

    kind: Literal["order"]
    name: str = "order"


class PretextTable(ClipsTable):
    """Unlabelled videos, played at several speeds or backwards; the way of playing is the class."""

    kind: Literal["pretext"]
    name: str = "pretext"
    index: str  # a folder of videos
    windows_s: dict[str, float]  # label -> span of its clips, negative for backwards
    every: int = Field(1, ge=1)  # a test has each n-th video, training the others
    test: bool = False


class VideosTable(ClipsTable):
    """Video files, mostly labelled; `data.list_formats` describes each format of a list."""

    kind: Literal["videos"]
    name: str
    index: str  # the list, or a folder
    format: Format = "index"
    root: str = ""  # folder of the videos; by default that of the list
    subset: Literal["train", "test"] = "train"  # of lists that hold both (hmdb)
    split: int = Field(1, ge=1)  # of lists that hold several (hmdb)
    group: str = ""  # column that names the source of a video, for the leak check
    rename: dict[str, str] = {}  # label in the list -> label of the recipe; others are left out
    only: dict[str, list[str]] = {}  # column -> values to keep
    exclude: dict[str, list[str]] = {}  # column -> values to leave out
    window_s: tuple[float, float] = (1.2, 6.0)  # of training; longer than a video = all of it
    time_jitter: float = Field(0.25, ge=0, le=0.5)  # of training, in distances between frames
    middle_s: float = Field(0.0, ge=0)  # of a longer video a test shows the middle; 0 = all of it
    labelled: bool = True  # false: a teacher alone tells what these videos show, see `distill`


DataTable = Annotated[
    SyntheticTable | OrderTable | PretextTable | VideosTable, Field(discriminator="kind")
]


class DistillTable(Table):
    """A teacher, and what its student learns from it; without alpha and beta, nothing."""

    teacher: str  # its checkpoint
    loss: Literal["kl", "kl_z", "dist"] = "kl"  # of the logits; `distillation.losses` has them
    alpha: Share = 0.2  # weight of the teacher's logits; 1 - alpha is that of the labels
    temperature: float = Field(10.0, gt=0)
    beta: float = Field(0.0, ge=0)  # weight of the teacher's modulators; 0 = none
    drop_path: float | None = Field(None, ge=0, lt=1)  # of a taught student; or model.drop_path
    cache_mb: float = Field(0, ge=0)  # size of a cache of its logits on disk; 0 = none

    @property
    def teaches(self) -> bool:
        """Whether a loss of the teacher's has a weight."""
        return bool(self.alpha or self.beta)

    @pydantic.model_validator(mode="after")
    def _check(self) -> DistillTable:
        if self.cache_mb and self.beta:
            raise ValueError("the cache holds logits, not modulators; set cache_mb or beta to 0")
        return self


class OptimTable(Table):
    """AdamW or SGD under a linear warm-up and a cosine.

    With `epochs` each listed video is seen once per epoch, and `steps` and `warmup_steps` follow
    from the number of videos; with `steps` classes are drawn equally often, without end.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    nesterov: bool = False  # the momentum of SGD
    steps: int = Field(1, ge=1)
    epochs: int = Field(0, ge=0)
    batch_size: int = Field(16, ge=1)  # clips per step, over all processes
    accumulate: int = Field(1, ge=1)  # parts that a step's clips are computed in, to save memory
    lr: float = Field(1e-3, gt=0)
    lr_min: float = Field(0.0, ge=0)  # where the cosine ends
    warmup_lr: float = Field(0.0, ge=0)  # where the warm-up begins
    warmup_steps: int = Field(0, ge=0)
    warmup_epochs: float = Field(0, ge=0)
    cosine_from: Literal["warmup", "start"] = "warmup"  # its end, or step 0, as timm counts
    weight_decay: float = Field(0.05, ge=0)
    clip_grad: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema: float = Field(0.0, ge=0, lt=1)  # decay of the averaged weights; 0 = none
    joints: float = Field(0.0, ge=0)  # weight of the loss on joints of rendered people; 0 = none
    # "auto" is bf16 on a GPU that computes in it and "no" elsewhere; see `training.launch`
    precision: Literal["auto", "no", "tf32", "bf16", "fp16"] = "auto"
    checkpointing: bool = False  # compute each block twice instead of keeping all of its values
    compile: bool | Literal["auto"] = "auto"  # by torch.compile; "auto": long runs on a GPU

    @pydantic.model_validator(mode="after")
    def _check(self) -> OptimTable:
        if not self.epochs and "steps" not in self.model_fields_set:
            raise ValueError("give steps or epochs")
        if self.warmup_epochs and not self.epochs:
            raise ValueError("warmup_epochs goes with epochs; use warmup_steps with steps")
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"nesterov goes with optimizer 'sgd', not with {self.optimizer!r}")
        for name in ("lr_min", "warmup_lr"):
            if (low := getattr(self, name)) > self.lr:
                raise ValueError(f"{name} must not be above lr {self.lr}, got {low}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        return self


class AugmentTable(Table):
    """Random changes, the same for all frames of a clip; 0 turns one off."""

    seeds: int = Field(0, ge=0)  # augmentations of a listed video; 0 = a new one in each epoch
    crop: tuple[Share, Share] | None = None  # a crop of this share of the picture, resized
    crop_ratio: tuple[float, float] = (0.75, 1.3333)  # its width over its height
    flip: Share = 0.5
    degrees: float = Field(6.0, ge=0)
    translate: float = Field(0.1, ge=0, lt=1)
    scale: tuple[float, float] = (0.8, 1.25)
    jitter: float = Field(0.3, ge=0, lt=1)  # of brightness and contrast; saturation 1/2, hue 1/4
    grey: Share = 0.2
    degrade: Share = 0.5  # probability of a down-up-scaling of the frames
    shake: Share = 0.0  # probability of a camera that shakes; these five: `data.camera`
    blur: Share = 0.0  # of a picture out of focus
    dark: Share = 0.0  # of little light
    noise: Share = 0.0  # of sensor noise, which a dark picture always has
    compress: Share = 0.0  # of compression at a low rate
    mixup: float = Field(0.0, ge=0)  # alpha of the Beta distribution; 0 = none
    cutmix: float = Field(0.0, ge=0)  # the same; with both, each pair of clips gets one of them
