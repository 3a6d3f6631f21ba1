"""Candidates for the decoding step: all compute what the whole decoder computes, and the table shows them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from silent2music import audio
from silent2music.evaluation import step_candidates
from silent2music.evaluation.candidates_report import write_candidates
from silent2music.evaluation.pure_step import PureStep, RingStepper, StepState
from silent2music.evaluation.step_candidates import Candidate, RealSteps, candidates, compare
from silent2music.model import Silent2Music


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Silent2Music:
    return Silent2Music.from_pretrained(model_folder)


@pytest.fixture
def real(model: Silent2Music, room_file: Path, monkeypatch: pytest.MonkeyPatch) -> RealSteps:
    """Steps of the tiny model, more of them than its attention's window is long."""
    monkeypatch.setattr(step_candidates, "N_STEPS", model.config.decoder.attention_window + 10)
    with torch.inference_mode():
        return RealSteps(model, audio.read(room_file))


def _named(start: str) -> Candidate:
    return next(candidate for candidate in candidates() if candidate.name.startswith(start))


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("module, fp32", 1e-4),
        ("packed, fp32", 1e-4),
        ("default, guidance in two passes", 0.02),
        ("module, bf16", 1.0),
    ],
)
def test_a_candidate_computes_what_the_whole_decoder_does(
    real: RealSteps, tmp_path: Path, name: str, largest: float
) -> None:
    with torch.inference_mode():
        found, _ = real.errors(_named(name).load(real.subject(tmp_path)))
    assert found["n_compared"] == step_candidates.N_STEPS
    assert 0 < found["rms_logit_error"] <= found["largest_logit_error"] < largest


def test_another_function_is_told_apart(real: RealSteps, tmp_path: Path) -> None:
    with torch.inference_mode():
        found, _ = real.errors(_named("default, no guidance").load(real.subject(tmp_path)))
    assert found["largest_logit_error"] > 1e-3 and not _named("default, no guidance").same


def test_the_step_changes_none_of_its_inputs(model: Silent2Music, real: RealSteps) -> None:
    state = StepState(model.decoder, real.heard, real.null, torch.float32)
    pure = PureStep(model.decoder, guidance=2.0)
    RingStepper(state, lambda: pure(*state.tensors())).step(*real.arguments(0))
    before = [tensor.clone() for tensor in state.tensors()]
    first, second = pure(*state.tensors()), pure(*state.tensors())
    assert all(torch.equal(a, b) for a, b in zip(before, state.tensors(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra 'bench'")
def test_a_runtime_on_bound_buffers_follows_the_ring(real: RealSteps, tmp_path: Path) -> None:
    candidate = _named("ONNX Runtime, fp32")
    assert candidate.prepare is not None
    subject = real.subject(tmp_path)
    candidate.prepare(subject)
    with torch.inference_mode():
        found, _ = real.errors(candidate.load(subject))
    assert found["largest_logit_error"] < 1e-4 and found["n_compared"] == step_candidates.N_STEPS


def test_rows_are_measured_or_say_why_not(
    model_folder: Path, room_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_candidates, "N_STEPS", 20)
    monkeypatch.setattr(step_candidates, "BLOCK_STEPS", 5)
    real_ones = candidates()

    def broken(subject: step_candidates.Subject) -> None:
        raise ValueError("no such operator")

    others = [
        Candidate("absent", real_ones[0].load, packages=("no_such_package",)),
        Candidate("broken", real_ones[0].load, prepare=broken),
    ]
    monkeypatch.setattr(step_candidates, "candidates", lambda: [*real_ones, *others])
    names = ["module, fp32", "absent", "broken"]
    report = compare(model_folder, audio.read(room_file), 2, names=names)
    rows = report["candidates"]
    assert list(rows) == names
    assert rows["module, fp32"]["steps_per_second"] > 0 and rows["module, fp32"]["ready_seconds"] > 0
    assert "no_such_package" in rows["absent"]["missing"] and "no such operator" in rows["broken"]["missing"]
    lines = write_candidates(report, tmp_path / "out").splitlines()
    assert json.loads((tmp_path / "out" / "candidates.json").read_text()) == report
    assert {line.count("|") for line in lines if line.startswith("|")} == {12}
