"""`s2m check-ambience`: what it finds of good loops, and of spoilt ones."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rooms import RATE, steps_room
from test_cli import one_sentence

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.export.ambience import seam as onsets
from silent2music.export.ambience.check import (
    _layer_faults,
    check_ambience,
    described,
    layer_densities,
    librosa_onsets,
    wav_loop,
)
from silent2music.export.ambience.seam import measure_seam
from silent2music.score import Part, Score, midi_bytes

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.fixture(scope="module")
def made(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of one room in two formats."""
    from silent2music.config import AmbienceConfig
    from silent2music.export.ambience.job import ambience
    from silent2music.export.models import LazyModel

    folder = tmp_path_factory.mktemp("checked")
    audio.write(folder / "walk.wav", Waveform(steps_room(4.0), RATE))
    config = AmbienceConfig(bars=1, layers=("calm", "intense"), formats=("wav", "ogg"), candidates=2)
    (outcome,) = ambience([folder / "walk.wav"], folder / "out", config, LazyModel(model_folder))
    assert outcome.status == "made"
    return folder / "out"


@pytest.fixture
def spoilt(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def faults(folder: Path) -> dict[str, str]:
    return {Path(c["file"]).name: "; ".join(c["faults"]) for c in check_ambience(folder)[0]}


def test_what_is_written_is_what_others_read(s2m, made: Path, tmp_path: Path) -> None:
    code, printed, _ = s2m("check-ambience", made)
    figures = json.loads(s2m("check-ambience", made, "--json")[1])
    assert [f["file"].split(".")[-1] for f in figures] == ["wav", "wav", "ogg", "ogg"]
    for f in figures:
        assert f["lufs"] == pytest.approx(-24.0, abs=0.1)
        assert f["true_peak_dbtp"] < -1.0
        assert f["lufs_made"] is not None
        # A tiny model's music may have seams that stand out; nothing else may be wrong.
        assert all("seam" in fault or "fold" in fault for fault in f["faults"]), f["faults"]
        assert set(f["seam"]) == set(f["fold"]) > {"level_jump", "onsets"}
    assert code == any(f["faults"] for f in figures)
    assert "4 files," in printed
    assert "walk: calm" in printed


def test_ffmpeg_leaves_what_is_typed_to_others(made: Path) -> None:
    """A shell's `while read` around the command must keep its lines."""
    (path, *_) = sorted(made.rglob("*.wav"))
    program = f"from silent2music.export.ambience.check import _ebur128\n_ebur128({str(path)!r}, 'stereo')\n"
    program += "print(input())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input="kept\n", capture_output=True, text=True, check=True)
    assert done.stdout == "kept\n"


def test_a_folder_in_which_all_failed_is_no_success(s2m, tmp_path: Path) -> None:
    manifest = {"rooms": [], "transitions": [], "failures": [{"file": "a.wav", "reason": "a.wav is empty."}]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    code, printed, said = s2m("check-ambience", tmp_path)
    assert (code, printed) == (1, "")
    assert "holds no loops: 1 recordings failed; see the reasons in manifest.json" in one_sentence(said)


def test_layers_are_counted_on_one_scale(tmp_path: Path) -> None:
    """Three faint strokes beside ten strong ones are three, not as many as the noise between them."""
    rate = 48_000
    t = np.arange(2 * rate) / rate
    room = {"folder": "a", "files": []}
    for layer, n_strokes in (("calm", 3), ("intense", 10)):
        lap = 0.003 * np.random.default_rng(n_strokes).standard_normal(len(t))
        for i in range(n_strokes):
            after = (t - 0.07 - 2.0 * i / n_strokes) % 2.0
            lap += 0.2 * np.exp(-after / 0.05) * np.sin(2 * np.pi * 660 * after)
        audio.write(tmp_path / "a" / f"{layer}.wav", Waveform(lap[None].astype(np.float32), rate))
        room["files"].append({"file": f"{layer}.wav", "layer": layer, "variation": 1, "spatial": "mono"})
    # One more onset each may be found where the sounds are joined.
    found = layer_densities(tmp_path, room)
    assert found == {"calm": pytest.approx(1.5, abs=0.5), "intense": pytest.approx(5.0, abs=0.5)}


def test_layers_that_add_have_the_onsets_of_those_before_them_too(tmp_path: Path) -> None:
    """Faint strokes count beside strong ones, where they fall together once, and a layer that adds none is named."""
    rate = 48_000
    t = np.arange(4 * rate) / rate
    room = {"folder": "a", "files": [], "composed": True, "scores": [], "levels": {}}
    room["levels"] = {"true_peak_dbtp": -1.0, "sum_true_peak_dbtp": -3.0}
    strokes = {
        "calm": (0.01, [0.5, 2.5]),
        "medium": (0.05, [1.5, 2.5, 3.5]),
        "intense": (0.2, [1.5, 2.5, 3.5]),
    }
    for layer, (gain, times) in strokes.items():
        lap = sum(
            gain * (t >= s) * np.exp(-(t - s).clip(0) / 0.1) * np.sin(2 * np.pi * 660 * t) for s in times
        )
        audio.write(tmp_path / "a" / f"{layer}.wav", Waveform(lap[None].astype(np.float32), rate))
        room["files"].append({"file": f"{layer}.wav", "layer": layer, "variation": 1, "spatial": "mono"})
    found = layer_densities(tmp_path, room)
    assert found == {"calm": 0.5, "medium": 1.0, "intense": 1.0}
    assert _layer_faults(tmp_path, room, found) == ["its layers do not rise in onsets (0.50, 1.00, 1.00)"]


def test_the_flutter_of_a_pad_is_no_onset_beside_strokes(tmp_path: Path) -> None:
    rate = 48_000
    t = np.arange(4 * rate) / rate
    pad = 0.05 * (1.0 + 0.3 * np.sin(2 * np.pi * 8 * t)) * np.sin(2 * np.pi * 220 * t)
    strokes = sum(
        0.1 * (t >= s) * np.exp(-(t - s).clip(0) / 0.1) * np.sin(2 * np.pi * 660 * t) for s in (0.6, 1.6, 2.6)
    )
    room = {"folder": "a", "files": [], "composed": True}
    for layer, lap in (("calm", pad), ("medium", strokes)):
        audio.write(tmp_path / "a" / f"{layer}.wav", Waveform(lap[None].astype(np.float32), rate))
        room["files"].append({"file": f"{layer}.wav", "layer": layer, "variation": 1, "spatial": "mono"})
    found = layer_densities(tmp_path, room)
    assert found["calm"] <= 0.25 and found["medium"] == found["calm"] + 0.75


def test_spoilt_loops_are_named(spoilt: Path) -> None:
    wav = next(spoilt.rglob("*calm_1.wav"))
    data = bytearray(wav.read_bytes())
    at = data.index(b"smpl")
    data[at + 8 + 48 : at + 8 + 52] = struct.pack("<I", 7)
    wav.write_bytes(data)
    assert wav_loop(bytes(data))["smpl"] == (1, 0, 0, 7, 0)
    ogg = next(spoilt.rglob("*calm_1.ogg"))
    loud = audio.read(ogg)
    audio.write(ogg, Waveform(np.clip(2 * loud.samples, -1, 1), loud.sample_rate), force=True)
    found = faults(spoilt)
    assert "smpl is (1, 0, 0, 7, 0)" in found[wav.name]
    assert "LOOPSTART is None" in found[ogg.name]
    assert "LUFS, not -24" in found[ogg.name]


@pytest.mark.parametrize(("place", "at"), [("seam", 0), ("fold", 36_000)])
def test_an_onset_that_only_the_cut_made_is_named(spoilt: Path, place: str, at: int) -> None:
    wav = next(spoilt.rglob("*intense_1.wav"))
    record = json.loads((spoilt / "manifest.json").read_text())
    for file in record["rooms"][0]["files"]:
        (fold,) = file["folds"]
        file["seam"]["onset_before"] = fold["onset_before"] = -1.0
        fold["sample"] = 36_000
    (spoilt / "manifest.json").write_text(json.dumps(record))
    t = np.arange(96_000) / 48_000
    tone = (0.1 * np.sin(2 * np.pi * 440 * t) * (1 + 0.3 * np.sin(2 * np.pi * t))).astype(np.float32)
    tone *= np.linspace(0.02, 1.0, len(tone))[::-1] ** 2  # each lap starts anew
    audio.write(wav, Waveform(np.roll(np.stack([tone, tone]), at, axis=1), 48_000), force=True)
    found = faults(spoilt)[wav.name]
    assert f"from the {place} was not in the music" in found
    assert f"the {place}'s level jump is at 0.99" in found or f"the {place}'s level jump is at 1.0" in found
    assert found.count("not in the music") == 1
    # A note that begins there is no fault, one of another layer does not excuse it.
    for layer, n_faults in (("calm", 1), ("intense", 0)):
        start, pitch = np.array([at / 48_000]), np.array([60])
        part = Part(f"viola ({layer})", 41, False, "", start, start + 1.0, pitch, pitch)
        (spoilt / "walk" / "walk_1.mid").write_bytes(midi_bytes(Score(2.0, (part,))))
        score = {"file": "walk_1.mid", "variation": 1, "onsets": {"calm": 1, "intense": 1}}
        record["rooms"][0]["scores"] = [score]
        (spoilt / "manifest.json").write_text(json.dumps(record))
        assert faults(spoilt)[wav.name].count("not in the music") == n_faults


def test_a_folder_without_a_manifest_is_refused(s2m, tmp_path: Path) -> None:
    code, _, said = s2m("check-ambience", tmp_path)
    assert code == 1
    assert "expected a folder of s2m ambience" in one_sentence(said)


@pytest.mark.parametrize("struck_at", [None, 0.0, 0.8])
def test_onsets_at_the_seam_are_those_of_librosa(struck_at: float | None) -> None:
    """Struck notes in noise on a lap of two seconds, one of them at the seam or none."""
    rate = 48_000
    t = np.arange(2 * rate) / rate
    rng = np.random.default_rng(3)
    lap = 0.002 * rng.standard_normal(len(t))
    for start in (0.45, 1.3, *([] if struck_at is None else [struck_at])):
        after = (t - start) % 2.0
        lap += 0.3 * np.exp(-after / 0.1) * np.sin(2 * np.pi * 660 * after)
    lap = lap.astype(np.float32)
    found = librosa_onsets(np.tile(lap, 3), rate)
    at_seam = [x for x in found if min(abs(x - 2.0), abs(x - 4.0)) <= 0.05]
    assert bool(at_seam) == (struck_at == 0.0) == (measure_seam(lap, rate).onset > 0)
    assert described([], {}).splitlines()[-1].startswith("0 files")


@pytest.mark.parametrize("rate", [24_000, 44_100, 48_000])
def test_onsets_are_those_of_librosa(rate: int) -> None:
    from librosa.onset import onset_detect, onset_strength

    rng = np.random.default_rng(rate)
    sound = 0.01 * rng.standard_normal(4 * rate)
    for begin in rng.integers(0, 4 * rate, 25):
        stroke = (
            rng.uniform(0.02, 0.3) * rng.standard_normal(rate // 8) * np.exp(-np.arange(rate // 8) / 2_000)
        )
        sound[begin : begin + rate // 8] += stroke[: len(sound) - begin]
    sound = sound.astype(np.float32)
    theirs = onset_strength(y=sound, sr=rate)
    np.testing.assert_allclose(
        onsets.onset_strength(sound, rate), (theirs - theirs.min()) / np.ptp(theirs), atol=1e-5
    )
    found = onsets.prominences(sound, rate)
    assert np.flatnonzero(found >= 0).tolist() == onset_detect(y=sound, sr=rate).tolist()
    assert (onsets.prominences(sound, rate, 0.02) >= found).all()
    at = int(found.argmax())
    near = onsets.strongest_near(found, rate, np.array([at * onsets.HOP, at * onsets.HOP + rate]))
    assert near[0] == found[at] > near[1]
    assert (onsets.prominences(np.zeros(rate, np.float32), rate) == onsets.NO_PEAK).all()
