"""A training run that is killed and resumed, beside one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from silent2music.training.learner import Learner


class Killed(Exception):
    """What a run dies of."""


def assert_same_states(folder: Path) -> None:
    """The runs `whole` and `parts` of a folder ended in the same weights, moments and averages."""
    whole, parts = (load_file(folder / name / "state.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert [name for name, value in whole.items() if not torch.equal(value, parts[name])] == []


def assert_resumes(train: Callable[..., Any], folder: Path, step: int) -> None:
    """A run that is killed before a step and resumed ends as one that is not; both stay in the folder."""
    train(folder / "whole")
    update = Learner.update

    def dying(learner: Learner, at: int) -> dict[str, float]:
        if at == step:
            raise Killed
        return update(learner, at)

    with mock.patch.object(Learner, "update", dying), pytest.raises(Killed):
        train(folder / "parts")
    train(folder / "parts", resume=True)
    assert_same_states(folder)
