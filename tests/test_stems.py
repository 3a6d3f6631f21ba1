"""Stems add up to the mix to the bit, have the levels that they have among all, and rest where their parts rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import steps_room
from rooms import RATE
from test_compose import made_score
from test_performing import SOUNDFONT, needs_synthesiser, part

from silent2music import audio
from silent2music.audio import Recording, Waveform, rms_dbfs
from silent2music.config import DeliveryConfig
from silent2music.errors import ConfigError, DataError
from silent2music.export.levelling import summed, write_music
from silent2music.export.provenance import sha256
from silent2music.export.stems import check_stems, level_gains, split, stem_path
from silent2music.model import Silent2Music
from silent2music.score import Score, write_midi


def steps_of(path) -> np.ndarray:
    """A file's samples as whole numbers of 24 bits, `[n, C]`."""
    samples, _ = soundfile.read(path, dtype="int32", always_2d=True)
    return samples.astype(np.int64) >> 8


def test_stems_add_up_to_the_mix_to_the_bit_under_its_limiter_too(tmp_path) -> None:
    rng = np.random.default_rng(0)
    stems = []
    for level in (0.02, 0.1, 0.05):
        stem = Recording(2, 48_000)
        stem.append((level * rng.standard_normal((2, 48_000))).astype(np.float32))
        stem.append((level * rng.standard_normal((2, 500_000)) ** 3).astype(np.float32))
        stems.append((tmp_path / f"{len(stems)}.wav", stem))
    out = tmp_path / "mix.wav"
    figures = write_music(out, summed([stem for _, stem in stems]), DeliveryConfig(lufs=-15.0), stems=stems)
    mix = steps_of(out)
    assert np.array_equal(sum(steps_of(path) for path, _ in stems), mix)
    assert figures["lufs"] == pytest.approx(-15.0, abs=0.3) and figures["true_peak_dbtp"] < -1.0
    assert figures["limiter"]["most_db"] > 3.0 and 0.0 < figures["limiter"]["share"] < 1.0
    # Where nothing is turned down, it is a plain gain on each.
    quiet = write_music(out, summed([stem for _, stem in stems]), DeliveryConfig(lufs=-45.0), stems=stems)
    assert quiet["limiter"] == {"most_db": 0.0, "share": 0.0}
    gains = [steps_of(p)[:40_000] / (s.slice(0, 40_000).T * 2.0**23) for p, s in stems]
    assert np.median(gains[0]) == pytest.approx(np.median(gains[2]), rel=1e-3)


def test_a_score_is_split_by_roles_or_parts() -> None:
    score = made_score()
    assert list(split(score)) == ["melody", "percussion"]
    plain = Score(2.0, (part([0.0], name="piano"), part([0.5], name="piano"), part([], name="rests")))
    assert list(split(plain)) == ["piano", "piano 2"]
    assert sum(own.n_notes for own in split(score, "part").values()) == score.n_notes
    with pytest.raises(DataError, match="'piano' has no role"):
        split(plain, "role")
    with pytest.raises(DataError, match="has no notes"):
        split(Score(2.0, ()))
    assert stem_path(Path("a/mix.flac"), "con").parent == Path("a")
    assert stem_path(Path("a/mix.flac"), "w/ood: 1").name == "mix.w-ood_-1.flac"


@pytest.mark.parametrize(
    ("by", "out", "said"),
    [("bar", "a.wav", "expected one of auto, role, part"), ("role", "a.ogg", "choose .wav or .flac")],
)
def test_stems_that_cannot_be_are_refused(by, out, said) -> None:
    with pytest.raises(ConfigError, match=said):
        check_stems(by, Path(out))


def test_levels_become_those_that_are_wanted() -> None:
    frames = np.arange(400)
    wanted = np.stack([np.where(frames < 200, 4.0, 0.0), np.full(400, 1.0)])
    played = np.full((2, 400), 0.01)
    gains = level_gains(played, wanted, 25.0)
    loud = gains**2 * played
    assert loud[0, 50:150] / loud[1, 50:150] == pytest.approx(np.full(100, 4.0), rel=1e-6)
    assert loud[0, 220:].max() == 0.0 and np.ptp(loud[1, 20:380]) < 1e-12
    assert loud[0, 100] + loud[1, 100] > 0.02 > loud[1, 300]


@pytest.fixture
def here(tmp_path, monkeypatch):
    audio.write(tmp_path / "room.wav", Waveform(steps_room(2.4), RATE))
    write_midi(tmp_path / "tune.mid", made_score(1.5))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_sum(folder, record) -> np.ndarray:
    """The mix of a record, after its stems were added up and compared with it."""
    mix = steps_of(folder / record["output"]["file"])
    stems = [steps_of(folder / stem["file"]) for stem in record["stems"]]
    assert np.array_equal(sum(stems), mix) and np.abs(mix).max() > 2**16
    assert all(np.abs(stem).max() > 0 for stem in stems)
    for stem in record["stems"]:
        assert stem["sha256"] == sha256(folder / stem["file"])
    return mix


def test_infer_writes_stems_of_what_it_composed(s2m, here, sketched_folder) -> None:
    command = ("infer", ".", "--out", "made", "--model", sketched_folder, "--seconds", "1.5", "--stems")
    assert s2m(*command)[0] == 0
    record = json.loads((here / "made" / "room.music.json").read_text(encoding="utf-8"))
    check_sum(here / "made", record)
    assert record["settings"]["beside"]["stems"] == "auto" and "limiter" in record["output"]
    # The same again is kept, and made again where a stem is gone, with the same bytes.
    assert "there already" in s2m(*command)[1]
    first = here / "made" / record["stems"][0]["file"]
    before = first.read_bytes()
    first.unlink()
    code, said, wrong = s2m(*command, "--force")
    assert code == 0 and "there already" not in said, wrong
    assert first.read_bytes() == before
    # Stems are no rooms.
    code, said, _ = s2m("infer", "made", "--out", "more", "--model", sketched_folder)
    assert code == 1 and not list((here / "more").glob("*.wav"))


def test_the_model_performs_stems_at_their_levels_and_rests(s2m, here, sketched_folder) -> None:
    early = part([0.0, 0.3, 0.6], name="harp", program=46)
    late = part([5.0, 5.4, 5.8], name="cello", program=42, pitch=48)
    write_midi(here / "two.mid", Score(7.0, (early, late)))
    code, _, wrong = s2m("perform", "two.mid", "-o", "two.flac", "--stems", "--model", sketched_folder)
    assert code == 0, wrong
    record = json.loads((here / "two.json").read_text(encoding="utf-8"))
    check_sum(here, record)
    assert [stem["file"] for stem in record["stems"]] == ["two.harp.flac", "two.cello.flac"]
    harp, cello = (audio.read(here / stem["file"]).samples for stem in record["stems"])
    assert not harp[:, 5 * 48_000 :].any() and not cello[:, : 3 * 48_000].any()
    model = Silent2Music.from_pretrained(sketched_folder)
    score = Score(7.0, (early, late))
    powers = model.sketched_powers(None, score, list(split(score).values()), 7.0)
    assert powers.shape == (2, 175) and not powers[0, 120:].any() and powers[1, 130:140].all()
    # The cello is told 18 ms early, so that its note is about to begin two frames before the score says.
    assert powers[1, 123] > 0.0 and not powers[1, :123].any()


@needs_synthesiser
def test_a_soundfonts_stems_are_what_it_plays_together(s2m, here) -> None:
    for name in ("one.wav", "parts.wav"):
        more = ("--stems-by", "part") if name == "parts.wav" else ()
        code, _, wrong = s2m(
            "perform",
            "tune.mid",
            "--soundfont",
            SOUNDFONT,
            "--room",
            "room.wav",
            "-o",
            name,
            "--lufs",
            -30,
            *more,
        )
        assert code == 0, wrong
    record = json.loads((here / "parts.json").read_text(encoding="utf-8"))
    mix, whole = check_sum(here, record) / 2.0**23, audio.read(here / "one.wav").samples.T
    assert mix.shape == whole.shape
    assert rms_dbfs((mix - whole).T) < rms_dbfs(whole.T) - 60.0


def test_what_has_no_stems_says_so(s2m, here, model_folder, sketched_folder) -> None:
    code, _, wrong = s2m("infer", "room.wav", "--stems", "--model", model_folder)
    assert code == 1 and "composes no score" in wrong
    code, _, wrong = s2m("infer", "room.wav", "-o", "a.mp3", "--stems", "--model", sketched_folder)
    assert code == 1 and "choose .wav or .flac" in wrong
    code, _, wrong = s2m("infer", "room.wav", "-o", "-", "--stems", "--model", sketched_folder)
    assert code == 2 and "give -o FILE" in wrong
    code, _, wrong = s2m(
        "perform", "tune.mid", "-o", "a.wav", "--stems-by", "bar", "--model", sketched_folder
    )
    assert code == 2 and "expected role or part" in wrong
    (here / "a.harp.wav").write_bytes(b"mine")
    code, _, wrong = s2m(
        "perform", "tune.mid", "-o", "a.wav", "--stems-by", "part", "--model", sketched_folder
    )
    assert code == 1 and "a.harp.wav exists already" in wrong and not (here / "a.wav").exists()
