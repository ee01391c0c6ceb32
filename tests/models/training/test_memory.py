"""Memory of a run: parts, recomputed blocks, and the error when it is not enough."""

from pathlib import Path

import pytest
import torch
from small_runs import ON_CPU, make_videos, small

from dvfl_models import build_model
from dvfl_models.training.memory import out_of_memory
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.errors import DvflError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def gradients(*, recomputed: bool, bf16: bool) -> tuple[torch.Tensor, int]:
    """Return all gradients of a step, and the bytes that autograd kept for it."""
    torch.manual_seed(0)
    model = build_model("femto", num_classes=3, drop_path_rate=0.4).train()
    if recomputed:
        model.recompute_blocks()
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    clips = torch.randn(4, 2, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits, modulators = model(clips, return_modulators=True)
        assert len(modulators) == 4
        energies = [m.spatial.float().square().mean() for m in modulators]
        loss = logits.float().logsumexp(1).sum() + torch.stack(energies).sum()
    size = sum(t.untyped_storage().nbytes() for t in kept.values())
    loss.backward()
    assert len(modulators) == 4  # the second run of the blocks adds none
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]), size


@pytest.mark.parametrize("bf16", [False, True])
def test_recomputed_blocks_have_the_same_gradients_and_keep_less(bf16: bool) -> None:
    plain, kept = gradients(recomputed=False, bf16=bf16)
    again, less = gradients(recomputed=True, bf16=bf16)
    assert torch.equal(plain, again)
    assert less < 0.7 * kept  # the weights of so small a clip are most of the rest


def full_gpu(*_: object) -> None:
    """Stand for a GPU that has no memory left."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_too_little_memory_names_the_settings(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    optim = {"steps": 2, "batch_size": 8, "accumulate": 2}
    trainer = Trainer(small(index, optim=optim), tmp_path / "run", ON_CPU)
    trainer.learner.network.register_forward_pre_hook(full_gpu)
    with pytest.raises(
        DvflError,
        match=r"^out of memory after step 0, with 4 clips of femto, 2 x 32 x 32, at a time; set "
        r"optim\.accumulate=4 or 8 \(.*\), or optim\.checkpointing=true \(.*\), or an "
        r"optim\.batch_size below 8; ",
    ):
        trainer.run(workers=0, progress=False)


def test_so_does_a_test_which_takes_no_more_clips_than_training(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    test = [{"kind": "videos", "name": "v_test", "index": str(index)}]
    optim = {"steps": 1, "batch_size": 2, "checkpointing": True}
    sizes = []

    def tested(network: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if not network.training:
            sizes.append(len(inputs[0]))
            if len(sizes) == 3:
                full_gpu()

    trainer = Trainer(small(index, optim=optim, test=test), tmp_path / "run", ON_CPU)
    trainer.learner.network.register_forward_pre_hook(tested)
    with pytest.raises(DvflError, match=r"after step 1, .* set optim\.accumulate=2 \(.*, or an"):
        trainer.run(workers=0, progress=False)
    assert sizes == [2, 2, 2]


def test_clips_that_are_mixed_stay_in_pairs() -> None:
    optim = {"steps": 1, "batch_size": 8}
    recipe = small(Path("v"), optim=optim, augment={"mixup": 0.8})
    assert "optim.accumulate=2 or 4 (" in str(out_of_memory(recipe, 1, 0))
    assert "optim.accumulate=2 (" in str(out_of_memory(recipe, 2, 0))
    one = small(Path("v"), optim={"steps": 1, "batch_size": 1, "checkpointing": True})
    assert "set a smaller model.variant or clip.size;" in str(out_of_memory(one, 1, 0))
