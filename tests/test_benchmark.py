"""The benchmark on a tiny model and on outputs whose answers are known by construction."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from silent2music import audio, model
from silent2music.audio import Waveform
from silent2music.config import Precision
from silent2music.data.pairs import Pair, write_pairs
from silent2music.decoder import Decoder
from silent2music.errors import DataError
from silent2music.evaluation import probing
from silent2music.evaluation.benchmark import EvalConfig, evaluate, evaluate_outputs, evaluate_rooms
from silent2music.stepping import PackedDecoder

RATE, SECONDS = 24_000, 10.0
N_TEST, N_TRAIN = 6, 3


def side(times: np.ndarray, gain: float, decay: float, seed: int, tonal: bool) -> Waveform:
    """Bursts of noise or plucked notes of a random melody at `times`, over a floor of noise."""
    rng = np.random.default_rng(seed)
    samples = 1e-4 * rng.standard_normal(int(SECONDS * RATE))
    t = np.arange(int(0.5 * RATE)) / RATE
    for start in times:
        hz = 220.0 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
        body = np.sin(2 * np.pi * hz * t) if tonal else rng.standard_normal(t.size)
        first = int(start * RATE)
        n = min(t.size, samples.size - first)
        samples[first : first + n] += (gain * body * np.exp(-t / decay))[:n]
    return Waveform(np.clip(samples, -1, 1)[None].astype(np.float32), RATE)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms of steps, each with a rhythm of its own, and music that plays on every step."""
    out = tmp_path_factory.mktemp("pairs")
    lines = []
    for i in range(N_TEST + N_TRAIN):
        rng = np.random.default_rng(100 + i)
        times = np.cumsum(rng.uniform(0.3, 0.9, 40))
        times = times[times < SECONDS - 0.3]
        audio.write(out / f"{i}.silent.wav", side(times, 0.005, 0.02, i, tonal=False))
        audio.write(out / f"{i}.music.wav", side(times, 0.3, 0.15, i, tonal=True))
        labels = {"kind": "steps" if i % 3 else "room", "event_seconds": times.tolist(), "tempo_bpm": 100.0}
        split = "validation" if i < N_TEST else "train"
        lines.append(Pair(f"{i}.silent.wav", f"{i}.music.wav", split=split, labels=labels))
    write_pairs(out, lines)
    return out


@pytest.fixture(scope="module")
def evaluated(pairs: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "LONG_SECONDS", 16.0)
        config = EvalConfig(n=N_TEST, seconds=8.0, batch_size=4, n_long=1, n_diverse=2, workers=1)
        evaluate(model_folder, pairs, out, config)
    return out


@pytest.fixture(scope="module")
def report(evaluated: Path) -> dict:
    return json.loads((evaluated / "report.json").read_text())


def test_every_part_is_there(report: dict, evaluated: Path) -> None:
    assert report["n"] == N_TEST
    assert report["held_out"] is True
    systems = set(report["follow"]["labelled"])
    assert systems >= {"real", "real, shuffled", "codec", "retrieval", "model", "model, shuffled", "dropped"}
    for part in (
        "kinds",
        "retrieval",
        "likelihood",
        "quality",
        "faults",
        "drift",
        "originality",
        "diversity",
    ):
        assert report[part], part
    assert report["targets"]
    assert not {"scores", "performance"} & report.keys() and len(report["left_out"]) == 3
    assert report["originality"]["copies"] == {"n": N_TRAIN, "named": N_TRAIN}
    text = (evaluated / "report.md").read_text()
    assert "## Targets" in text and "since the model has no composer" in text
    assert "Noise is the worst of all in" in text
    assert "**the model, true room**" in text
    assert "nan" not in text.lower().replace("resonance", "")
    for picture in ("summary.png", "kinds.png"):
        assert (evaluated / picture).read_bytes()[:4] == b"\x89PNG"


def test_the_ceiling_is_above_its_null(report: dict) -> None:
    for table in (report["differences"]["labelled"], report["differences"]["measured"]):
        difference = table["real - real, shuffled"]["onset_hit_rate"]
        assert difference["excludes_zero"]
        assert difference["mean"] > 0.4
    assert report["follow"]["labelled"]["real"]["onset_hit_rate"]["mean"] > 0.95


def test_music_without_a_room_is_not_better_than_its_null_by_much(report: dict) -> None:
    """By F: an untrained model plays onsets without end, which hit many of any room's events."""
    follow = report["follow"]["labelled"]
    assert follow["dropped"]["onset_f"]["mean"] < follow["real"]["onset_f"]["mean"] - 0.2


def test_noise_is_worst_in_every_quality_figure(report: dict) -> None:
    for figure in ("kernel", "frechet"):
        values = {
            name: v[figure]
            for name, v in report["quality"].items()
            if name not in ("model", "dropped", "codec")
        }
        assert max(values, key=lambda name: values[name]) == "noise"
        assert min(values, key=lambda name: values[name]) in ("real", "retrieval")
    faults = {name: table for name, table in report["faults"].items() if name not in ("model", "dropped")}
    assert max(faults, key=lambda name: faults[name]["flatness"]["mean"]) == "noise"
    assert min(faults, key=lambda name: faults[name]["key_clarity"]["mean"]) == "noise"


def test_a_random_model_is_at_chance_by_its_own_likelihood(report: dict) -> None:
    judge = report["likelihood"]
    assert judge["among"] == N_TEST
    assert judge["chance_recall_at_1"] == pytest.approx(1 / N_TEST)
    assert judge["loss"]["true"] == pytest.approx(judge["loss"]["shuffled"], rel=0.2)


def test_a_quarter_that_falls_silent_counts_as_inaudible_and_as_no_more() -> None:
    tone = (0.1 * np.sin(2 * np.pi * 440 * np.arange(8 * RATE) / RATE)).astype(np.float32)[None]
    ending = tone.copy()
    ending[:, 6 * RATE :] = 0.0
    subject = SimpleNamespace(
        config=EvalConfig(n_long=2),
        play=lambda *job, **more: [Waveform(tone, RATE), Waveform(ending, RATE)],
        stages=SimpleNamespace(run=lambda name, function, jobs: [function(job) for job in jobs]),
    )
    found = probing.drift(subject, [SimpleNamespace(room=None)] * 2)
    level = 20 * np.log10(0.1 / np.sqrt(2))
    expected = [level, level, level, (level - 60.0) / 2]
    assert found["figures"]["level_dbfs"]["quarters"] == pytest.approx(expected, abs=0.05)


def test_the_same_figures_twice(pairs: Path, model_folder: Path, tmp_path: Path) -> None:
    config = EvalConfig(n=2, seconds=4.0, n_train=1, n_long=0, n_diverse=0, workers=1)
    texts = []
    for name in ("a", "b"):
        evaluate(model_folder, pairs, tmp_path / name, config)
        texts.append((tmp_path / name / "report.json").read_text())
    assert texts[0] == texts[1]


def test_quick_says_the_same_of_the_model_and_leaves_the_rest_out(
    pairs: Path, model_folder: Path, tmp_path: Path, report: dict
) -> None:
    config = EvalConfig(n=N_TEST, seconds=8.0, batch_size=4, workers=1, quick=True)
    quick = evaluate(model_folder, pairs, tmp_path, config)
    assert quick["follow"]["labelled"]["model"] == report["follow"]["labelled"]["model"]
    assert quick["quality"]["model"] == report["quality"]["model"]
    assert not {"likelihood", "originality", "drift", "diversity"} & quick.keys()
    assert "dropped" not in quick["follow"]["labelled"]


def test_the_precision_asked_for_is_that_which_plays(
    s2m, pairs: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[str] = []

    def seen(decoder: Decoder, precision: Precision | None = None) -> PackedDecoder:
        packed.append(PackedDecoder(decoder, precision).precision)
        return PackedDecoder(decoder, precision)

    monkeypatch.setattr(model, "PackedDecoder", seen)
    options = ("--quick", "--pairs", pairs, "--model", model_folder, "--n", 2, "--seconds", 2, "--workers", 1)
    for precision in ("fp32", "bf16"):
        code, printed, _ = s2m("eval", *options, "--precision", precision, "--out", tmp_path / precision)
        assert code == 0 and f"weights in {precision}" in printed
    assert packed == ["fp32", "bf16"]
    code, _, told = s2m("eval", *options, "--precision", "fp8", "--out", tmp_path / "fp8")
    assert code == 2 and "'fp8' is not one of" in told


def test_real_recordings_are_turned_down_and_those_trained_on_left_out(
    pairs: Path, model_folder: Path, tmp_path: Path
) -> None:
    rooms = tmp_path / "rooms"
    for i in range(3):
        room = audio.read(pairs / f"{i}.silent.wav")
        audio.write(rooms / "a" / f"{i}.wav", Waveform(30.0 * room.samples, RATE))
    trained_on = {"sources": [{"path": "a/1.wav", "licence": "CC0", "author": "T", "role": "recording"}]}
    write_pairs(tmp_path, [Pair("a.wav", "b.wav", labels=trained_on)])
    config = EvalConfig(n=5, seconds=4.0, workers=1)
    report = evaluate_rooms(model_folder, rooms, tmp_path / "out", tmp_path, config)
    assert sorted(report["recordings"]["names"]) == ["a/0.wav", "a/2.wav"]
    assert set(report["follow"]["measured"]) == {"model", "model, shuffled", "dropped"}
    assert report["follow"]["measured"]["model"]["energy_pearson"]["n"] == 2
    assert {target["aim"] for target in report["targets"]} == {"interval above 0", "at most 1% of outputs"}
    assert "turned down to -60 dBFS" in (tmp_path / "out" / "report.md").read_text()


class TestOutputs:
    def test_the_real_music_under_another_name_follows_and_a_copy_is_named(
        self, pairs: Path, tmp_path: Path
    ) -> None:
        outputs = tmp_path / "outputs"
        for i in range(N_TEST):
            # Output 4 is a copy of a training piece; the others are the music of their own rooms.
            source = N_TEST if i == 4 else i
            audio.write(outputs / f"{i}.silent.music.wav", audio.read(pairs / f"{source}.music.wav"))
        report = evaluate_outputs(outputs, tmp_path / "out", pairs, EvalConfig(workers=1))
        difference = report["differences"]["labelled"]["model - model, shuffled"]["onset_hit_rate"]
        assert difference["mean"] > 0.3
        (copied,) = report["originality"]["too_near"]
        assert copied["output"].startswith("4.silent")
        assert copied["training"] == f"{N_TEST}.music.wav"
        assert copied["distance"] == pytest.approx(0.0, abs=1e-6)

    def test_a_pair_folder_is_its_own_ceiling(self, pairs: Path, tmp_path: Path) -> None:
        report = evaluate_outputs(pairs, tmp_path / "out", config=EvalConfig(workers=1))
        assert report["n"] == N_TEST + N_TRAIN
        assert report["differences"]["measured"]["real - real, shuffled"]["onset_f"]["excludes_zero"]
        assert report["retrieval"]["real"]["recall_at_1"] > 0.8

    def test_files_alone_get_what_needs_no_room(self, pairs: Path, tmp_path: Path) -> None:
        for i in range(2):
            audio.write(tmp_path / "files" / f"{i}.wav", audio.read(pairs / f"{i}.music.wav"))
        report = evaluate_outputs(tmp_path / "files", tmp_path / "out")
        assert report["n"] == 2
        assert report["faults"]["outputs"]["silent_share"]["mean"] < 0.5
        assert "follow" not in report
        assert "What goes wrong" in (tmp_path / "out" / "report.md").read_text()

    def test_processes_change_nothing(self, pairs: Path, tmp_path: Path) -> None:
        reports = [
            evaluate_outputs(pairs, tmp_path / str(n), config=EvalConfig(n=4, seconds=4.0, workers=n))
            for n in (1, 2)
        ]
        assert reports[0] == reports[1]

    def test_names_that_match_nothing_are_an_error(self, pairs: Path, tmp_path: Path) -> None:
        audio.write(tmp_path / "files" / "other.wav", audio.read(pairs / "0.music.wav"))
        with pytest.raises(DataError, match="matches 0 pairs"):
            evaluate_outputs(tmp_path / "files", tmp_path / "out", pairs, EvalConfig(workers=1))


def test_too_few_pairs_are_an_error(pairs: Path, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 1 pairs to test on"):
        evaluate(model_folder, pairs, tmp_path, EvalConfig(n=1))
