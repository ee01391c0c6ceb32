"""The optimiser of a recipe and its learning rates."""

import math

import pytest
import torch
from torch import nn

from dvfl_models.recipe.recipe import read_recipe
from dvfl_models.recipe.tables import OptimTable
from dvfl_models.training.learner import lr_at, new_optimizer


def optim(**values: object) -> OptimTable:
    return OptimTable.model_validate({"steps": 100, "lr": 0.1, "warmup_steps": 20, **values})


def test_rates_rise_and_fall_to_zero() -> None:
    table = optim()
    assert lr_at(table, 0) == pytest.approx(0.1 / 20)
    assert lr_at(table, 19) == lr_at(table, 20) == pytest.approx(0.1)
    assert lr_at(table, 60) == pytest.approx(0.05)
    assert lr_at(table, 100) == pytest.approx(0)


def test_rates_of_the_official_code() -> None:
    # timm's CosineLRScheduler: at step t after the warm-up lr_min + (lr - lr_min) / 2 *
    # (1 + cos(pi t / steps)), so that it falls from the warm-up to 93 % of lr when a sixth is done
    recipe = read_recipe("ucf101_teacher").with_epoch_of(640)
    table = recipe.optim
    assert (table.steps, table.warmup_steps) == (1200, 200)
    assert lr_at(table, 0) == pytest.approx(1.25e-4 + (0.0125 - 1.25e-4) / 200)
    assert lr_at(table, 199) == pytest.approx(0.0125)
    fallen = 1.25e-4 + (0.0125 - 1.25e-4) / 2 * (1 + math.cos(math.pi / 6))
    assert lr_at(table, 200) == pytest.approx(fallen)
    assert lr_at(table, 1200) == pytest.approx(1.25e-4)


def test_nesterov_momentum_looks_ahead() -> None:
    network = nn.Linear(1, 1, bias=False)
    moved = []
    for nesterov in (False, True):
        nn.init.ones_(network.weight)
        table = optim(optimizer="sgd", nesterov=nesterov, weight_decay=0)
        optimizer = new_optimizer(table, network)
        network(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        moved.append(1 - network.weight.item())
    assert moved == pytest.approx([0.1, 0.19])  # lr * g, and lr * (g + 0.9 g)
