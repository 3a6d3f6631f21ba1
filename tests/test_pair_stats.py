"""Pair statistics on a small folder whose answers are known by construction."""

import json
from pathlib import Path

import numpy as np
import pytest

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.data.pairs import Pair, load_pair, write_pairs
from silent2music.errors import DataError
from silent2music.evaluation.following import references_of
from silent2music.evaluation.pair_stats import pair_stats, stats_text
from silent2music.plotting import plot_pair
from silent2music.score import Score, write_midi

RATE, SECONDS = 24_000, 12.0


def _bursts(times: np.ndarray, decay: float, gain: float, tone_hz: float = 0.0) -> np.ndarray:
    """Bursts of noise, or plucked tones, that start at `times`."""
    rng = np.random.default_rng(0)
    samples = np.zeros(int(SECONDS * RATE))
    t = np.arange(int(0.5 * RATE)) / RATE
    for start in times:
        body = np.sin(2 * np.pi * tone_hz * t) if tone_hz else rng.standard_normal(t.size)
        first = int(start * RATE)
        n = min(t.size, samples.size - first)
        samples[first : first + n] += (gain * body * np.exp(-t / decay))[:n]
    return samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four `steps` pairs whose plucks stand on the steps, each with another rhythm, and one quiet room."""
    out = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(1)
    pairs = []
    for i in range(5):
        times = np.cumsum(rng.uniform(0.35, 0.9, 30))
        times = times[times < SECONDS - 0.5] if i < 4 else np.array([])
        noise = 10 ** (-80 / 20) * rng.standard_normal(int(SECONDS * RATE))
        sides = {
            "silent": noise + _bursts(times, 0.02, 10 ** (-45 / 20)),
            "music": 0.3 * noise + _bursts(times, 0.1, 0.3, 330.0),
        }
        for side, samples in sides.items():
            audio.write(out / f"{i}.{side}.wav", Waveform(samples[None].astype(np.float32), RATE))
        labels = {"kind": "steps" if i < 4 else "room", "event_seconds": times.tolist(), "tempo_bpm": 100.0}
        labels["sources"] = [{"path": "a.ogg", "licence": "CC0"}, {"path": f"{i}.mid", "licence": "CC0"}]
        pairs.append(Pair(f"{i}.silent.wav", f"{i}.music.wav", labels=labels))
    write_pairs(out, pairs)
    return out


@pytest.fixture(scope="module")
def found(folder: Path) -> dict:
    return pair_stats(folder)


def test_counts(found: dict) -> None:
    assert found["n_pairs"] == found["n_measured"] == 5
    assert found["hours"] == pytest.approx(5 * SECONDS / 3600)
    assert found["kinds"] == {"room": 1, "steps": 4}
    assert found["licences"] == {"CC0": 5}


@pytest.mark.parametrize("side", ["measured", "labelled"])
def test_true_pairs_meet_and_shuffled_ones_do_not(found: dict, side: str) -> None:
    table = found["follow"][side]
    true, shuffled = (table[name]["onset_hit_rate"] for name in ("real", "real, shuffled"))
    assert true["n"] == 4
    assert true["mean"] > 0.95
    assert shuffled["mean"] < 0.4
    assert found["differences"][side]["real - real, shuffled"]["onset_hit_rate"]["low"] > 0.4


def test_energy_is_asked_of_all_and_boundaries_of_none(found: dict) -> None:
    energy = found["follow"]["measured"]["real"]["energy_pearson"]
    assert energy["n"] == 5
    assert found["differences"]["measured"]["real - real, shuffled"]["energy_pearson"]["excludes_zero"]
    assert "boundary_f_0.5" not in found["follow"]["measured"]["real"]


def test_workers_and_repetition_change_nothing(folder: Path, found: dict) -> None:
    steps: list[tuple[str, int, int]] = []
    again = pair_stats(folder, workers=2, progress=lambda *told: steps.append(told))
    assert again == found
    assert steps == [("pairs", i, 5) for i in range(1, 6)]


def test_json_summary_and_picture_by_the_command(s2m, folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "pair.png"
    picture.write_text("mine")
    line = ("data", "stats", folder, "--plot", picture, "--pair", 2)
    code, _, told = s2m(*line)
    assert (code, told.count("\n"), picture.read_text()) == (1, 1, "mine")
    picture.unlink()
    code, _, told = s2m(*line[:-1], 9, "--n", 2)
    assert code == 1 and "--pair is 9 and" in told and "holds 5 pairs" in told
    code, printed, told = s2m(*line, "--json")
    assert code == 0, told
    values = json.loads(printed)
    _, printed, _ = s2m(*line)
    assert values["follow"]["measured"]["real"]["onset_f"]["n"] == 4
    assert "5 pairs" in printed and "licences: CC0 5" in printed
    assert "| onset_hit_rate | 4 |" in printed
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_n_max_measures_fewer_and_scales_hours(folder: Path) -> None:
    some = pair_stats(folder, n_max=2)
    assert (some["n_pairs"], some["n_measured"]) == (5, 2)
    assert some["hours"] == pytest.approx(5 * SECONDS / 3600)


def test_boundaries_are_asked_where_the_labels_say_so() -> None:
    from silent2music.acoustics import analyze

    profile = analyze(Waveform(np.zeros((1, 5 * RATE), np.float32), RATE))
    changing = {"event_seconds": [], "boundaries": [3.0], "scene_boundaries": [2.0]}
    references = references_of(profile, changing)
    assert references["labelled"].boundary_seconds.tolist() == [2.0]
    assert references["measured"].changing
    assert not references_of(profile, {"event_seconds": []})["measured"].changing


def test_unlabelled_rooms_with_clear_events_are_rhythmic_without_a_pulse_too() -> None:
    from silent2music.acoustics import analyze

    noise = 1e-3 * np.random.default_rng(1).standard_normal(int(SECONDS * RATE))
    uneven = np.array([0.7, 1.3, 3.1, 3.9, 6.2, 8.8, 9.3])
    for gain, rhythmic in ((0.2, True), (0.002, False)):
        samples = noise + _bursts(uneven, 0.05, gain)
        profile = analyze(Waveform(samples[None].astype(np.float32), RATE))
        assert not profile.pulse_seconds
        references = references_of(profile, {})
        assert references["measured"].rhythmic is rhythmic and "labelled" not in references


def test_no_pairs_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no pairs"):
        pair_stats(tmp_path)


def test_picture(folder: Path, tmp_path: Path) -> None:
    pair = Pair("0.silent.wav", "0.music.wav")
    silent, music = load_pair(folder, pair)
    plot_pair(silent, music, {"kind": "steps", "beats": [1.0, 2.0], "boundaries": [6.0]}, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


def test_pairs_without_sound_are_counted_and_not_measured(folder: Path, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.silent.wav").write_bytes((folder / f"{number}.silent.wav").read_bytes())
        (tmp_path / f"{number}.music.wav").write_bytes((folder / f"{number}.music.wav").read_bytes())
        write_midi(tmp_path / f"{number}.mid", Score(SECONDS, ()))
    labels = {"kind": "steps"}
    mute = [Pair(f"{n}.silent.wav", None, labels=labels, score=f"{n}.mid") for n in (3, 4)]
    write_pairs(tmp_path, [Pair(f"{n}.silent.wav", f"{n}.music.wav", labels=labels) for n in range(3)] + mute)
    found = pair_stats(tmp_path)
    assert [found[name] for name in ("n_pairs", "n_scores", "n_soundless", "n_measured")] == [5, 2, 2, 3]
    assert found["hours"] == pytest.approx(5 * SECONDS / 3600)
    assert "2 with a score, 2 without sound" in stats_text(found)
    write_pairs(tmp_path, mute)
    alone = pair_stats(tmp_path)
    assert (alone["n_measured"], alone["kinds"]) == (0, {"steps": 2})
    assert alone["hours"] == pytest.approx(2 * SECONDS / 3600)
    assert "follow" not in alone
    assert "2 pairs" in stats_text(alone)
