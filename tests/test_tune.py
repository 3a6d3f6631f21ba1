"""Fine-tuning on a folder: what is found in it, the pairs made of it, and a whole run, killed and resumed."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from library import write_scores
from rooms import RATE, steps_room
from test_adapters import states

import silent2music
from silent2music import audio
from silent2music.acoustics import analyze
from silent2music.adapters import PARTS, AdapterConfig, TunedPart, file_digest, write_adapter
from silent2music.audio import Waveform, rms_dbfs
from silent2music.config import DataConfig, RecipeConfig, TrainingConfig, TuneConfig
from silent2music.controls import programs_of
from silent2music.data.pairs import MANIFEST, SPLITS, check, read_pairs, score_of
from silent2music.errors import CheckpointError, DataError
from silent2music.evaluation.before_after import (
    Comparison,
    Made,
    Room,
    compare,
    distances,
    followed_as_by_base,
    page,
    sentences,
    sound_of,
    style_of,
)
from silent2music.evaluation.notes import score_level_db
from silent2music.factory.own_folder import (
    inspect_folder,
    make_pairs,
    onsets_of,
    open_workshop,
    with_roles,
)
from silent2music.model import Silent2Music
from silent2music.score import Part, Score, read_midi, write_midi
from silent2music.training import tuning
from silent2music.training.tune_job import TuneJob
from silent2music.training.tuned import loss_curve, told_of
from silent2music.training.tuning import tune
from silent2music.transcription import Notes

needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")

CONFIG = TuneConfig(
    rank=2, alpha=4.0, seconds=4.0, pairs_per_minute=12.0, rooms_per_piece=2, max_steps=6, n_compared=2, n_followed=2,
    validation_share=0.25,
)  # fmt: skip
TRAINING = TrainingConfig(
    batch_size=2,
    crop_seconds=2.0,
    warmup_steps=1,
    n_validation_pairs=2,
    ema_decay=0.5,
    checkpoint_minutes=0.0,
)
RECIPE = RecipeConfig(tune=CONFIG, training=TRAINING, data=DataConfig(soundfont=()))


def music(seconds: float = 9.0, seed: int = 0) -> np.ndarray:
    """Tones that begin every 0.75 s, `[1, N]`."""
    rng, t = np.random.default_rng(seed), np.arange(round(seconds * RATE)) / RATE
    pitch = np.repeat(rng.choice([220.0, 277.2, 329.6, 440.0], 40), round(0.75 * RATE))[: len(t)]
    return (0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * np.exp(-(t % 0.75) / 0.2))[None].astype(
        np.float32
    )


def quiet(seconds: float) -> np.ndarray:
    """Room tone at -60 dBFS, `[1, N]`."""
    return (1e-3 * np.random.default_rng(3).standard_normal((1, round(seconds * RATE)))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one or two sources of every kind."""
    out = tmp_path_factory.mktemp("mine")
    write_scores(out / "midi", 4)
    for index in range(4):
        audio.write(out / f"song{index}.wav", Waveform(music(seed=index), RATE))
    for name in ("song0", "song2"):  # the second one is held out
        shutil.copy(out / "midi" / "piece0.mid", out / f"{name}.mid")
    audio.write(out / "kitchen.room.wav", Waveform(steps_room(9.0), RATE))
    audio.write(out / "kitchen.music.wav", Waveform(music(), RATE))
    audio.write(out / "hall" / "room.wav", Waveform(steps_room(9.0), RATE))
    audio.write(out / "hall" / "music.wav", Waveform(music(seed=5), RATE))
    performance = np.concatenate([quiet(3.0), 2 * music(8.0)], axis=1)
    audio.write(out / "live.wav", Waveform(performance, RATE))
    return out


@pytest.fixture(scope="module")
def shop(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    found = inspect_folder(folder)
    out = tmp_path_factory.mktemp("pairs")
    return found, open_workshop(found, out, CONFIG, DataConfig(), licence="CC0-1.0", seed=1)


def test_every_file_is_told_for_what_it_is(folder):
    found = inspect_folder(folder)
    kinds = {source.name: source.kind for source in found.sources}
    assert kinds == {
        "hall": "pairs",
        "kitchen": "pairs",
        "live": "performances",
        **{f"midi/piece{i}": "scores" for i in range(4)},
        **{f"song{i}": "music" for i in range(4)},
    }
    assert not found.faults
    assert {s.name for s in found.sources if s.kind == "music" and s.score is not None} == {"song0", "song2"}
    assert "4 scores (8." in str(found)


def test_a_room_alone_is_a_room_and_needs_scores(tmp_path):
    audio.write(tmp_path / "cellar.wav", Waveform(steps_room(6.0), RATE))
    audio.write(tmp_path / "attic.room.wav", Waveform(steps_room(6.0), RATE))
    found = inspect_folder(tmp_path)
    assert {source.kind for source in found.sources} == {"rooms"}
    with pytest.raises(DataError, match=r"rooms without music.*--set data\.scores=FOLDER"):
        open_workshop(found, tmp_path / "out", CONFIG, DataConfig())


def test_faults_are_listed_and_end_the_run(tmp_path, model_folder, s2m):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "broken.wav").write_bytes(b"RIFF no sound")
    (tmp_path / "mine" / "empty.mid").write_bytes(b"MThd")
    audio.write(tmp_path / "mine" / "loud.room.wav", Waveform(music(), RATE))
    audio.write(tmp_path / "mine" / "loud.music.wav", Waveform(music(), RATE))
    found = inspect_folder(tmp_path / "mine")
    assert len(found.faults) == 3
    assert any("loud.room.wav has" in fault and "near-silent" in fault for fault in found.faults)
    if find_spec("peft") is not None:
        code, listed, said = s2m("tune", tmp_path / "mine", "-o", tmp_path / "out", "--model", model_folder)
        assert code == 1
        assert listed.splitlines() == list(found.faults)
        assert said == f"{tmp_path / 'mine'} has 3 faults; mend or remove the files named.\n"
        assert not (tmp_path / "out" / "adapter.json").exists()
    with pytest.raises(DataError, match="is no folder"):
        inspect_folder(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds neither sound nor MIDI"):
        inspect_folder(tmp_path / "bare")
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / MANIFEST).write_text('{"silent": "a.wav", "music": "b.wav"}\n', encoding="utf-8")
    assert [fault.split(": ")[1] for fault in inspect_folder(tmp_path / "listed").faults] == [
        "missing-file"
    ] * 2


def test_pairs_are_good_pairs_and_split_by_source(shop, folder):
    found, workshop = shop
    pairs = make_pairs(workshop, found, 44)
    assert check(workshop.out) == []
    of_split = {s: {p.labels["piece"] for p in pairs if p.split == s} for s in SPLITS}
    assert not of_split["train"] & of_split["validation"]
    assert of_split["train"] | of_split["validation"] == {source.name for source in found.sources}
    assert {p.labels["piece"] for p in pairs if p.score} >= {f"midi/piece{i}" for i in range(4)} | {"song0"}
    assert all(source["licence"] for pair in pairs for source in pair.labels["sources"])
    again = open_workshop(
        found, workshop.out.parent / "again", CONFIG, DataConfig(), licence="CC0-1.0", seed=1
    )
    twin = make_pairs(again, found, 44)
    assert [p.to_line() for p in twin] == [p.to_line() for p in pairs]
    name = next(p.silent for p in pairs if p.labels["piece"] == "song1")
    assert (again.out / name).read_bytes() == (workshop.out / name).read_bytes()


def test_all_sound_without_a_score_is_transcribed_where_that_is_trusted(folder, tmp_path):
    found = inspect_folder(folder)
    notes = read_midi(folder / "midi" / "piece0.mid")

    def heard(sound: Waveform):
        return (
            None
            if sound.seconds < 3.0
            else dataclasses.replace(notes.slice(0.0, sound.seconds), seconds=sound.seconds)
        )

    workshop = open_workshop(found, tmp_path, CONFIG, DataConfig(), transcriber=heard)
    pairs = make_pairs(workshop, found, 44)
    lack = {p.labels["piece"] for p in pairs if p.score is None}
    assert not lack
    (live, *_) = [p for p in pairs if p.labels["piece"] == "live"]
    assert live.labels["kind"] == "harvest"
    assert score_of(tmp_path, live).n_notes >= 8
    assert check(tmp_path) == []
    for pair in pairs:
        has_loudness = len(score_of(tmp_path, pair).gain_db) > 0
        assert has_loudness is (pair.music is None), "the loudness of sound is not what a room asks for"


def test_music_with_notes_is_held_out_beside_music_without(tmp_path):
    for index in range(6):
        audio.write(tmp_path / "mine" / f"song{index}.wav", Waveform(music(seed=index), RATE))
    write_scores(tmp_path / "scores", 1)
    notes = read_midi(tmp_path / "scores" / "piece0.mid")
    turns = iter([None, notes, None, notes, None, None])
    found = inspect_folder(tmp_path / "mine")
    workshop = open_workshop(
        found, tmp_path / "pairs", CONFIG, DataConfig(), transcriber=lambda _: next(turns)
    )
    pairs = make_pairs(workshop, found, 24)
    assert {p.labels["piece"] for p in pairs if p.score} == {"song1", "song3"}
    for split in SPLITS:
        assert {p.score is not None for p in pairs if p.split == split} == {False, True}
    of_split = [{p.labels["piece"] for p in pairs if p.split == split} for split in SPLITS]
    assert not of_split[0] & of_split[1]


def test_heard_notes_are_as_loud_as_the_music_and_go_to_instruments_by_pitch(monkeypatch):
    t = np.arange(8 * RATE) / RATE
    loud = 10 ** (-(t // 4) * 12 / 20)  # the second half is 12 dB softer
    sound = Waveform(
        (0.3 * loud * np.sin(2 * np.pi * 440 * t) * np.exp(-(t % 0.5) / 0.2))[None].astype(np.float32), RATE
    )
    starts = np.arange(0.0, 7.9, 0.5)
    pitches = np.where(np.arange(len(starts)) % 2, 69.0, 45.0)
    heard = Notes(starts, starts + 0.4, pitches)
    monkeypatch.setattr(tuning, "transcribe", lambda music: heard)
    score = tuning.heard_score(sound, ("violin", "cello"))
    assert {part.name: set(part.pitches.tolist()) for part in score.parts} == {"violin": {69}, "cello": {45}}
    at, _, _, velocities = score.notes()
    first, second = velocities[at < 4].mean(), velocities[at >= 4].mean()
    assert 40 * np.log10(first / second) == pytest.approx(12.0, abs=1.0)
    (piano,) = tuning.heard_score(sound, ("piano",)).parts
    assert (piano.name, len(piano.pitches)) == ("piano", len(starts))
    late = Notes(starts + 0.25, starts + 0.4, pitches)
    monkeypatch.setattr(tuning, "transcribe", lambda music: late)
    assert tuning.heard_score(sound, ("piano",)) is None, "notes that the sound does not have are not trusted"


def test_what_plays_is_a_piano_unless_it_is_said(monkeypatch):
    monkeypatch.setattr(tuning, "can_transcribe", lambda: True)
    (name,) = tuning.transcriber_of(()).keywords["instruments"]
    assert programs_of([name]) == {0}
    monkeypatch.setattr(tuning, "can_transcribe", lambda: False)
    assert tuning.transcriber_of(("cello",)) is None


def test_a_made_room_has_its_events_on_the_musics_onsets(shop):
    _, workshop = shop
    pairs = [
        p for p in read_pairs(workshop.out) if p.labels.get("kind") == "steps" and p.music and not p.score
    ]
    assert pairs
    near = []
    for pair in pairs:
        times, _ = onsets_of(audio.read(workshop.out / pair.music))
        near += [float(np.abs(times - event).min()) for event in pair.labels["event_seconds"]]
    assert len(near) >= 6
    assert max(near) < 0.03


def test_rooms_alone_are_kept_as_they_are(tmp_path):
    write_scores(tmp_path / "scores", 8)
    for index in range(2):
        audio.write(
            tmp_path / "mine" / f"cellar{index}.wav", Waveform(steps_room(6.0, level_dbfs=-57.0), RATE)
        )
    found = inspect_folder(tmp_path / "mine")
    data = DataConfig(scores=(str(tmp_path / "scores"),))
    workshop = open_workshop(found, tmp_path / "pairs", CONFIG, data)
    pairs = make_pairs(workshop, found, 4)
    assert {pair.split for pair in pairs} == set(SPLITS)
    assert all(pair.music is None and score_of(workshop.out, pair).n_notes for pair in pairs)
    levels = [rms_dbfs(audio.read(workshop.out / pair.silent).samples) for pair in pairs]
    np.testing.assert_allclose(levels, -57.0, atol=1.5)


def test_of_a_single_source_the_end_is_held_out(tmp_path):
    audio.write(tmp_path / "mine" / "long.wav", Waveform(music(24.0), RATE))
    found = inspect_folder(tmp_path / "mine")
    workshop = open_workshop(found, tmp_path / "pairs", CONFIG, DataConfig())
    pairs = make_pairs(workshop, found, 10)
    assert [p.split for p in pairs] == ["train"] * (len(pairs) - 2) + ["validation"] * 2


def test_roles_go_by_register(tmp_path):
    write_scores(tmp_path / "scores", 1)
    score = read_midi(tmp_path / "scores" / "piece0.mid")
    assert [part.role for part in with_roles(score).parts] == ["melody"]


# ---- what is measured ----


def test_distances_are_least_for_the_same_style(tmp_path):
    write_scores(tmp_path / "scores", 4)
    scores = [read_midi(tmp_path / "scores" / f"piece{i}.mid").slice(0.0, 20.0) for i in range(4)]
    own = [style_of(score) for score in scores[:3]]
    flutes = with_program(scores[3], 73)
    alike, unlike = distances([style_of(scores[3]), style_of(flutes)], own)
    assert alike < unlike
    sounds = [sound_of(Waveform(music(seed=i), RATE)) for i in range(3)]
    noise = np.random.default_rng(0).standard_normal((1, 9 * RATE)).astype(np.float32) * 0.1
    near, far = distances([sound_of(Waveform(music(seed=7), RATE)), sound_of(Waveform(noise, RATE))], sounds)
    assert near < far


def with_program(score, program):
    from dataclasses import replace

    return replace(score, parts=tuple(replace(part, program=program) for part in score.parts))


def test_a_scores_level_follows_its_notes(tmp_path):
    write_scores(tmp_path / "scores", 1)
    score = read_midi(tmp_path / "scores" / "piece0.mid").slice(0.0, 8.0)
    level = score_level_db(score)
    assert len(level) == 80
    assert level.max() < 12.0
    assert score_level_db(type(score)(2.0, ())).max() == pytest.approx(-60.0)


def interval(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def figures(nearer: float, lost: float, copies: bool) -> dict:
    change = {"base": interval(1, 1, 1), "tuned": interval(1, 1, 1), "n_own": 5}
    followed = {"base": interval(0.5, 0.4, 0.6), "tuned": interval(0.5, 0.4, 0.6)}
    return {
        "base": "base<script>",
        "data": "x",
        "licence": "y",
        "distance": {"notes": {**change, "nearer": interval(nearer, nearer - 0.1, nearer + 0.1)}},
        "following": {"hit_rate": {**followed, "change": interval(-lost, -lost, -lost)}},
        "originality": {
            "longest_shared_run": {"tuned": 9, "base": 3, "held_out": 4}, "nearest_piece": "song", "copies": copies,
        },
    }  # fmt: skip


def test_what_sounds_as_the_base_does_is_compared_by_its_notes(sketched_folder, tmp_path, monkeypatch):
    write_scores(tmp_path / "mine", 2)
    found = inspect_folder(tmp_path / "mine")
    workshop = open_workshop(found, tmp_path / "work" / "pairs", CONFIG, DataConfig())
    make_pairs(workshop, found, 4)
    part = TunedPart(file_digest(sketched_folder / PARTS["composer"]), 1, 1.0)
    write_adapter(tmp_path / "tuned", AdapterConfig("tiny", {"composer": part}), {})
    made: list[str] = []
    for name in ("generate", "compose"):
        own = getattr(Silent2Music, name)

        def noted(self, *args, _own=own, _name=name, **kwargs):
            made.append(_name)
            return _own(self, *args, **kwargs)

        monkeypatch.setattr(Silent2Music, name, noted)
    job = Comparison(
        base=sketched_folder, adapter=tmp_path / "tuned", tuned=sketched_folder, pairs=workshop.out,
        rooms=workshop.out,        n=2, n_followed=2, n_played=1, seed=0,
    )  # fmt: skip
    measured, shown = compare(job, lambda stage, done, total: None)
    assert made == ["generate", "compose", "compose", "compose"] * 2
    assert len(shown) == 1
    assert measured["distance"]["notes"]["nearer"]["mean"] == 0, "nothing was tuned"
    assert measured["following"]["energy"]["change"]["mean"] == 0


def test_loudness_follows_by_the_least_share_of_the_rule_that_does(sketched_folder, tmp_path, monkeypatch):
    shutil.copytree(sketched_folder, base := tmp_path / "base")
    composer, own = base / "composer" / "config.json", 0.35
    composer.write_text(json.dumps(json.loads(composer.read_text()) | {"following": own}))
    job = Comparison(
        base=base, adapter=None, tuned=base, pairs=tmp_path / "pairs", rooms=None, n=2, n_followed=3, seed=0
    )
    found = followed_as_by_base(job, lambda stage, done, total: None)
    assert found["share"] == own, "nothing was tuned"
    assert found["energy"][f"{own:g}"] == pytest.approx(found["base"], abs=1e-6)

    def compose(self, room, composing=None, seed=0):
        """A long note, whose loudness is the room's, or of the tuned model by rule the room's and else its contrary."""
        level = np.asarray(analyze(room).energy_dbfs, np.float64)
        share = 1.0 if composing is None else composing.following
        note = Part(
            "piano", 0, False, "melody", np.zeros(1), np.array([room.seconds]), np.array([60]), np.array([99])
        )
        return Score(room.seconds, (note,), gain_db=(2 * share - 1) * (level - level.mean()) - 36.0)

    monkeypatch.setattr(Silent2Music, "compose", compose)
    found = followed_as_by_base(job, lambda stage, done, total: None)
    assert found["share"] == 0.75
    assert found["energy"][f"{own:g}"] < 0 < 0.9 < found["energy"]["0.75"]


def test_what_is_bad_is_told():
    good, bad = (" ".join(sentences(figures(*own))) for own in ((0.5, 0.0, False), (0.05, 0.2, True)))
    assert "nothing is shown" not in good
    assert "forgotten" not in good
    assert "It copies" not in good
    assert "nothing is shown to have been learned" in bad
    assert "0.200 of it was forgotten" in bad
    assert "It copies: what it plays is nearer to 'song'" in bad


def test_the_page_is_one_file_of_sound_and_pictures(tmp_path):
    write_scores(tmp_path / "scores", 1)
    score = read_midi(tmp_path / "scores" / "piece0.mid").slice(0.0, 4.0)
    made = Made(score, Waveform(music(2.0), RATE), True)
    room = Room("a <b>", Waveform(steps_room(), RATE), {})
    text = page(figures(0.5, 0.0, False), [(room, made, made)], ["A & B"])
    assert text.count("<audio") == 3
    assert text.count("<svg") == text.count('aria-label="Piano roll') == 2
    assert "<script" not in text
    assert "A &amp; B" in text
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", text)


# ---- whole runs ----


def job_for(folder: Path, out: Path, base: Path, **changes) -> TuneJob:
    return TuneJob(folder, out, base, RECIPE, minutes=2.0, seed=3, licence="CC0-1.0", **changes)


def test_no_part_takes_longer_than_its_share_of_the_time(tmp_path, monkeypatch):
    allowed: dict[str, float] = {}

    def run(job, part, steps, place, progress, minutes):
        place.mkdir(parents=True)
        allowed[part] = minutes

    monkeypatch.setattr(tuning, "_run_loop", run)
    monkeypatch.setattr(tuning, "loss_curve", lambda log: [(0, 1.0)])
    job = job_for(tmp_path, tmp_path / "out", tmp_path)
    for part in ("composer", "decoder"):
        tuning._train(job, part, {"composer": 9, "decoder": 9}, lambda text: None, lambda *args: None)
    assert allowed == pytest.approx({"composer": 0.5, "decoder": 1.0})


def test_why_training_ended_is_told():
    falling = [(0, 9.0), (5, 8.0), (10, 7.0), (15, 6.0)]
    risen = [*falling, (20, 6.1), (25, 6.2), (30, 6.3), (35, 6.4)]
    assert told_of("sketch", falling, 15) == (
        "sketch: held-out loss 9.0000 of the base, lowest 6.0000 at step 15, which is kept; training ended at step 15, "
        "since all steps were done."
    )
    assert told_of("sketch", risen[:6], 25).endswith("at step 15, which is kept; training ended at step 25, since all "
        "steps were done.")  # fmt: skip
    assert told_of("sketch", risen[:6], 99).endswith("ended at step 25, since the time was over.")
    assert told_of("sketch", risen, 99).endswith("at step 35, since 4 validations in a row were no lower.")


class _Killed(BaseException):
    pass


@needs_peft
@pytest.mark.slow
def test_a_run_gives_an_adapter_and_a_killed_one_the_same(sketched_folder, folder, tmp_path, monkeypatch):
    said: list[str] = []
    out = tune(job_for(folder, tmp_path / "whole", sketched_folder), said.append)
    plan = json.loads((out / "work" / "plan.json").read_text())
    assert set(plan) == {"composer", "sketch", "decoder"}
    text = "\n".join(said)
    assert re.search(r"Found in .*: 2 pairs .*, 1 performances .*, 4 scores", text)
    assert "To be tuned: composer, sketch, decoder of 'tiny' (low-rank changes, rank 2)." in text
    assert "minutes at most, and about" in text
    for name in ("adapter.json", "adapter.safetensors", "README.md", "report.json", "before-after.html"):
        assert (out / name).stat().st_size > 0
    base, tuned = (states(silent2music.load(sketched_folder, adapters=own)) for own in ((), (out,)))
    changed = {name for name in base if not bool((base[name] == tuned[name]).all())}
    assert {name.split(".")[0] for name in changed} == {"composer", "sketch", "decoder"}
    figures = json.loads((out / "report.json").read_text())
    assert figures["held_out_loss"]["composer"] == [
        list(p) for p in loss_curve(out / "work" / "composer" / "log.jsonl")
    ]
    assert (
        silent2music.load(sketched_folder, adapters=[out]).composer.config.following
        == figures["loudness"]["share"]
    )
    assert 'license: "CC0-1.0"' in (out / "README.md").read_text()
    assert tune(job_for(folder, out, sketched_folder), said.append) == out
    assert said[-1] == f"{out} is finished; remove it to begin anew."

    # Killed while the composer learns; the plan is that of the first run, since a machine's speed varies.
    monkeypatch.setattr(tuning, "_probed", lambda job, part, counts: 1e-3)

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "composer" and done == 3:
            raise _Killed

    again = job_for(folder, tmp_path / "killed", sketched_folder)
    with pytest.raises(_Killed):
        tune(again, said.append, kill)
    assert not (again.out / "adapter.safetensors").exists()
    tune(again, said.append)
    assert json.loads((again.work / "plan.json").read_text()) == plan
    assert (again.out / "adapter.safetensors").read_bytes() == (out / "adapter.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="was begun with another minutes; give the same"):
        tune(
            TuneJob(folder, out, sketched_folder, RECIPE, minutes=3.0, seed=3, licence="CC0-1.0"), said.append
        )


@needs_peft
@pytest.mark.slow
def test_all_weights_make_a_model(sketched_folder, folder, tmp_path):
    out = tune(job_for(folder, tmp_path / "full", sketched_folder, full=True), lambda text: None)
    base, tuned = (states(Silent2Music.from_pretrained(f)) for f in (sketched_folder, out / "model"))
    assert any(
        not bool((base[name] == tuned[name]).all()) for name in base if name.startswith("composer.blocks")
    )
    assert not (out / "adapter.json").exists()


@needs_peft
def test_material_that_serves_nothing_is_told(model_folder, tmp_path):
    write_midi(tmp_path / "mine" / "a.mid", scored(tmp_path))
    with pytest.raises(DataError, match="serves no part of 'tiny'"):
        tune(job_for(tmp_path / "mine", tmp_path / "out", model_folder), lambda text: None)


def scored(tmp_path: Path):
    write_scores(tmp_path / "made", 1)
    return read_midi(tmp_path / "made" / "piece0.mid").slice(0.0, 8.0)
