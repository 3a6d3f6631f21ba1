from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import mutagen
import numpy as np
import pytest
from rooms import RATE, steps_room

from silent2music import audio, config
from silent2music.audio import Waveform
from silent2music.audio.decoding import INSTALL
from silent2music.config import LOUDNESS, DeliveryConfig, SamplingConfig
from silent2music.errors import AudioError, CheckpointError, ConfigError
from silent2music.export import infer as job
from silent2music.export import levelling, provenance
from silent2music.export.batch import Job, hashed_seed
from silent2music.export.models import LazyModel, Request
from silent2music.model import Silent2Music

DELIVERY = DeliveryConfig()


@pytest.fixture(scope="module")
def loaded(model_folder: Path) -> LazyModel:
    return LazyModel(model_folder, "cpu")


def load(folder: Path, device: str | None = None) -> Silent2Music:
    return LazyModel(folder, device).model


def run(
    loaded: LazyModel, room: Path, out: Path, seed: int = 0, seconds: float | None = None, **options: Any
) -> dict[str, Any]:
    request = Request(seconds=seconds)
    return job.infer(Job(room, out, seed, room.name), audio.read(room), loaded, request, **options)


# ---- one room ----


def test_output_keeps_the_promises_on_length_level_and_peak(loaded, room_file: Path, tmp_path: Path) -> None:
    record = run(loaded, room_file, tmp_path / "out.wav")
    music = audio.read(tmp_path / "out.wav")
    assert (music.n_samples, music.sample_rate, music.n_channels) == (96_000, 48_000, 2)
    assert audio.integrated_lufs(music) == pytest.approx(DELIVERY.lufs, abs=0.3)
    assert audio.true_peak_dbtp(music) < DELIVERY.true_peak
    assert record["output"]["lufs"] == pytest.approx(audio.integrated_lufs(music), abs=0.01)
    assert record["output"]["sha256"] == provenance.sha256(tmp_path / "out.wav")


@pytest.mark.parametrize("seconds", [0.5, 1.2345, 3.0])
def test_length_is_exact_to_the_sample(loaded, room_file: Path, tmp_path: Path, seconds: float) -> None:
    run(loaded, room_file, tmp_path / "out.wav", seconds=seconds)
    assert audio.read(tmp_path / "out.wav").n_samples == round(seconds * 48_000)


def test_default_length_is_the_rooms_at_any_rate(loaded, tmp_path: Path) -> None:
    room = tmp_path / "odd.wav"
    audio.write(room, Waveform(steps_room(1.0, 44_100)[:, :43_211], 44_100))
    run(loaded, room, tmp_path / "out.wav")
    assert audio.read(tmp_path / "out.wav").n_samples == round(43_211 / 44_100 * 48_000)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a"])
def test_the_same_job_twice_gives_the_same_bytes(
    loaded, room_file: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".m4a":
        pytest.importorskip("av")
    for name in ("a", "b"):
        run(loaded, room_file, tmp_path / name / f"out{suffix}")
    for file in (f"out{suffix}", "out.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_another_seed_or_another_room_gives_other_music(loaded, room_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    audio.write(other, Waveform(steps_room(interval=0.31, level_dbfs=-45.0), RATE))
    run(loaded, room_file, tmp_path / "a.wav")
    run(loaded, room_file, tmp_path / "b.wav", seed=1)
    run(loaded, other, tmp_path / "c.wav")
    pieces = [audio.read(tmp_path / f"{n}.wav").samples for n in "abc"]
    assert not np.array_equal(pieces[0], pieces[1])
    assert not np.array_equal(pieces[0], pieces[2])


def test_record_says_how_the_piece_was_made(
    loaded, room_file: Path, model_folder: Path, tmp_path: Path
) -> None:
    record = run(loaded, room_file, tmp_path / "out.flac", seed=5, seconds=1.0)
    assert (tmp_path / "out.json").read_text() == provenance.to_text(record)
    assert record["input"]["sha256"] == provenance.sha256(room_file)
    assert record["model"]["sha256"] == provenance.sha256(model_folder / "model.safetensors")
    codec = ("codec/config.json", "codec/model.safetensors")
    assert record["model"]["parts"] == {name: provenance.sha256(model_folder / name) for name in codec}
    assert record["model"]["name"] == "tiny"
    assert record["settings"] == {
        **dataclasses.asdict(SamplingConfig(seed=5, guidance=1.5, score_guidance=1.25, adherence=4.0)),
        "constraints": ["cells", "rests"],
        "controls": {},
        "seconds": 1.0,
        "track": 1,
        "channel": None,
        "delivery": dataclasses.asdict(DELIVERY),
        "device": "cpu",
    }
    assert record["output"]["space"]["azimuth_degrees"] == 0.0
    assert set(record["versions"]) >= {"silent2music", "torch", "python"}
    assert record["room"]["level_dbfs"] == pytest.approx(-60.0, abs=0.5)
    tags = json.loads(mutagen.File(tmp_path / "out.flac").tags[provenance.TAG][0])
    assert tags == {key: record[key] for key in ("input", "model", "settings", "versions")}


def hostile_rooms() -> dict[str, Waveform]:
    steps = steps_room(1.0)
    return {
        "silence": Waveform(np.zeros((1, RATE), np.float32), RATE),
        "dc": Waveform(np.full((1, RATE), 0.5, np.float32), RATE),
        "clipped": Waveform(np.clip(1e6 * steps, -1, 1), RATE),
        "8 kHz": Waveform(steps_room(1.0, 8_000), 8_000),
        "192 kHz": Waveform(steps_room(1.0, 192_000), 192_000),
        "8 channels": Waveform(np.tile(steps, (8, 1)), RATE),
        "opposite channels": Waveform(np.concatenate([steps, -steps]), RATE),
        "shortest": Waveform(steps_room(0.5), RATE),
    }


@pytest.mark.parametrize("name", hostile_rooms())
def test_odd_rooms_work_and_give_music(loaded, tmp_path: Path, name: str) -> None:
    room = tmp_path / "room.wav"
    audio.write(room, hostile_rooms()[name])
    record = run(loaded, room, tmp_path / "out.wav")
    assert record["output"]["seconds"] == pytest.approx(audio.read(room).seconds)
    assert record["output"]["lufs"] is not None


def test_progress_is_told_to_the_end(loaded, room_file: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    run(loaded, room_file, tmp_path / "out.wav", progress=lambda *step: steps.append(step))
    assert steps[0][0] == "room.wav"
    assert [done for _, done, _ in steps] == list(range(1, steps[0][2] + 1))


def test_a_failure_in_the_middle_leaves_nothing(loaded, room_file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        job.provenance, "write_tags", lambda *_: (_ for _ in ()).throw(AudioError("no space"))
    )
    with pytest.raises(AudioError, match=r"out\.wav cannot be written"):
        run(loaded, room_file, tmp_path / "out" / "out.wav")
    assert list((tmp_path / "out").iterdir()) == []


# ---- levels ----


def test_nearly_nothing_is_left_so_and_said(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 48_000)).astype(np.float32)
    quiet = Waveform(noise * np.float32(1e-3), 24_000)
    figures = levelling.write_music(tmp_path / "out.wav", [quiet])
    assert figures["nearly_nothing"] is True
    assert figures["lufs"] == pytest.approx(audio.integrated_lufs(quiet), abs=0.1)
    silence = Waveform(np.zeros((1, 48_000), np.float32), 24_000)
    assert levelling.write_music(tmp_path / "silence.wav", [silence])["lufs"] is None


def test_peaky_music_reaches_its_loudness_under_the_peak(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).standard_normal((1, 144_000)).astype(np.float32) * np.float32(0.004)
    samples[:, 48_000:96_000] = 0.0
    samples[:, 110_000:116_000] *= 10.0
    samples[:, 112_000::1_000] *= 20.0
    figures = levelling.write_music(tmp_path / "out.wav", [Waveform(samples, 24_000)])
    assert figures["lufs"] == pytest.approx(DELIVERY.lufs, abs=0.1)
    assert figures["true_peak_dbtp"] < DELIVERY.true_peak


def test_true_peak_holds_after_lossy_coding(tmp_path: Path) -> None:
    # A loud square wave under a limiter is what Vorbis overshoots most.
    t = np.arange(72_000) / 24_000
    square = Waveform((0.9 * np.sign(np.sin(2 * np.pi * 97 * t)))[None].astype(np.float32), 24_000)
    clicks = np.zeros((1, 72_000), np.float32)
    clicks[:, ::600] = 0.99
    for music in (square, Waveform(clicks, 24_000)):
        levelling.write_music(tmp_path / "out.ogg", [music])
        assert audio.true_peak_dbtp(audio.read(tmp_path / "out.ogg")) < DELIVERY.true_peak


# ---- many rooms ----


def test_a_folder_is_mirrored_and_seeded_by_relative_path(tmp_path: Path) -> None:
    for name in ("a.wav", "sub/b.wav", "sub/b.music.wav", "sub/.b.wav"):
        path = tmp_path / "rooms" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        audio.write(path, Waveform(steps_room(0.5), RATE))
    jobs = job.plan([tmp_path / "rooms"], 3, folder=tmp_path / "out")
    assert not any(j.refused for j in jobs)
    assert [j.out.relative_to(tmp_path / "out").as_posix() for j in jobs] == [
        "a.music.wav",
        "sub/b.music.wav",
    ]
    assert [j.label for j in jobs] == ["a.wav", "sub/b.wav"]
    assert [j.seed for j in jobs] == [hashed_seed(3, "a.wav"), hashed_seed(3, "sub/b.wav")]
    assert len({j.seed for j in jobs}) == 2


def test_files_that_would_meet_in_one_output_are_named(tmp_path: Path, model_folder: Path) -> None:
    first, second = job.plan([tmp_path / "x" / "a.wav", tmp_path / "y" / "a.wav"], 0)
    assert (first.room, first.refused) == (tmp_path / "x" / "a.wav", "")
    assert "would both be written to a.music.wav" in second.refused
    (outcome,) = job.infer_many([second], LazyModel(model_folder), folder=tmp_path)
    assert (outcome.status, outcome.reason) == ("failed", second.refused)
    assert not (tmp_path / "manifest.jsonl").exists()  # its line would stand for the other's music


def test_names_that_differ_only_in_case_do_not_meet_on_other_platforms(tmp_path: Path) -> None:
    for name in ("Kitchen.wav", "kitchen.wav", "KITCHEN.flac", "hall.wav"):
        (tmp_path / name).touch()
    jobs = job.plan([tmp_path], 0)
    refused = {j.room.name: j.refused for j in jobs if j.refused}
    assert [j.room.name for j in jobs if not j.refused] == ["KITCHEN.flac", "hall.wav"]
    assert list(refused) == ["Kitchen.wav", "kitchen.wav"]
    assert all("would both be written to" in reason for reason in refused.values())
    composed, decomposed = tmp_path / "caf\u00e9.wav", tmp_path / "x" / "cafe\u0301.wav"
    assert job.plan([composed, decomposed], 0)[1].refused  # one name on macOS


def test_the_same_file_twice_is_made_once(room_file: Path, tmp_path: Path, model_folder: Path) -> None:
    jobs = job.plan([room_file, room_file], 0, folder=tmp_path / "out")
    results = list(job.infer_many(jobs, LazyModel(model_folder), Request(seconds=0.5)))
    assert [result.status for result in results] == ["made"]


def test_guidance_is_the_models_own_unless_given(room_file: Path, tmp_path: Path, model_folder: Path) -> None:
    for guidance, expected in ((None, 1.5), (3.0, 3.0)):
        jobs = job.plan([room_file], 0, folder=tmp_path / str(guidance))
        request = Request(SamplingConfig(guidance=guidance), seconds=0.5)
        (result,) = job.infer_many(jobs, LazyModel(model_folder), request)
        assert result.record is not None and result.record["settings"]["guidance"] == expected


def test_no_recording_is_ever_overwritten(room_file: Path, tmp_path: Path, model_folder: Path) -> None:
    """Neither the one that is played to, nor another one of the run, nor as a record."""
    other = tmp_path / "other.json"
    shutil.copy(room_file, other)
    before = room_file.read_bytes()
    for out in (room_file, other, other.with_suffix(".wav")):
        jobs = [Job(room_file, out, 0, "x"), Job(other, tmp_path / "made.wav", 0, "y")]
        result = next(iter(job.infer_many(jobs, LazyModel(model_folder), force=True)))
        assert result.status == "failed"
        assert "is the recording itself" in result.reason or "expected one of .wav" in result.reason
        assert room_file.read_bytes() == other.read_bytes() == before


@pytest.mark.parametrize("name", ["out.wav", "out.json"])
def test_force_replaces_only_what_this_program_made(
    loaded, room_file: Path, tmp_path: Path, name: str
) -> None:
    this = Job(room_file, tmp_path / "out.wav", 0, "room.wav")
    request = Request(seconds=0.5)
    (made,) = job.infer_many([this], loaded, request)
    assert made.status == "made"
    (again,) = job.infer_many([this], loaded, request, force=True)
    assert again.record == made.record
    for path in (tmp_path / "out.wav", tmp_path / "out.json"):
        path.unlink()
    (tmp_path / name).write_text('{"output": {"file": "out.wav"}, "mine": true}')
    (refused,) = job.infer_many([this], loaded, request, force=True)
    assert f"{name} does not say that silent2music made it" in refused.reason
    assert "mine" in (tmp_path / name).read_text()


def test_what_is_no_regular_file_is_not_written_to(loaded, room_file: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    targets = [tmp_path / "folder.wav"]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        targets.append(tmp_path / "pipe.wav")
    for target in targets:
        (refused,) = job.infer_many([Job(room_file, target, 0, "x")], loaded, force=True)
        assert "choose another name" in refused.reason
        assert target.exists() and not target.is_file()


# ---- takes and lengths ----


def test_several_takes_have_seeds_in_a_row_and_numbers(loaded, room_file: Path, tmp_path: Path) -> None:
    jobs = job.plan([room_file], 7, folder=tmp_path, count=3)
    assert [(j.seed, j.out.name) for j in jobs] == [
        (7, "room.1.music.wav"),
        (8, "room.2.music.wav"),
        (9, "room.3.music.wav"),
    ]
    assert [j.out.name for j in job.plan([room_file], 7, tmp_path / "idea.flac", count=2)] == [
        "idea.1.flac",
        "idea.2.flac",
    ]
    (alone,) = job.plan([tmp_path], 8)  # a folder's file has the same seed by whichever count
    assert [j.seed for j in job.plan([tmp_path], 7, count=2)][1] == alone.seed
    missing = job.plan([tmp_path / "none"], 0, count=2)
    assert [j.out.name for j in missing] == ["none.1.music.wav", "none.2.music.wav"]
    for take in jobs[:2]:
        record = job.infer(take, audio.read(room_file), loaded, Request(seconds=0.5))
        assert (record["settings"]["seed"], record["output"]["file"]) == (take.seed, take.out.name)
    assert [j.room.name for j in job.plan([tmp_path], 0)] == ["room.wav"]  # takes are no rooms


def test_music_that_takes_very_long_is_confirmed_first(loaded, room_file: Path, tmp_path: Path) -> None:
    this, wav = tmp_path / "out.flac", tmp_path / "out.wav"
    with pytest.raises(
        AudioError, match=r"for room\.wav are 32 years, which take about 3 years .* 672,000 GB"
    ):
        job.check_length("room.wav", this, 1e9, DELIVERY, confirmed=False)
    job.check_length("room.wav", this, 1e9, DELIVERY, confirmed=True)
    job.check_length("room.wav", this, 5 * 3600, DELIVERY, confirmed=False)
    with pytest.raises(
        AudioError, match=r"longer than a WAV file can be, 4\.1 h at this rate; choose \.flac"
    ):
        job.check_length("room.wav", wav, 5 * 3600, DELIVERY, confirmed=True)
    (refused,) = job.infer_many([Job(room_file, this, 0, "room.wav")], loaded, Request(seconds=1e9))
    assert "give --force to make them all the same" in refused.reason


# ---- what is delivered ----


def test_mono_at_the_codecs_rate_is_the_models_music_but_for_level_and_end(
    loaded, room_file: Path, tmp_path: Path
) -> None:
    request = Request(seconds=1.5, delivery=DeliveryConfig(24_000, mono=True, fade_out=0.1))
    job.infer(Job(room_file, tmp_path / "out.flac", 3, "x"), audio.read(room_file), loaded, request)
    made = audio.read(tmp_path / "out.flac").samples[0]
    played = loaded.model.generate(room_file, seconds=1.5, seed=3).samples[0]
    assert made.shape == played.shape == (36_000,)
    gain = made[:30_000] @ played[:30_000] / (played[:30_000] @ played[:30_000])
    # The limiter turns down peaks, so that samples agree but there.
    assert np.median(np.abs(made[:30_000] - gain * played[:30_000])) < 0.02 * np.abs(made).max()
    assert abs(made[-1]) < 1e-6
    assert np.abs(made[-240:]).max() < 0.1 * np.abs(made).max()


def test_every_piece_ends_and_begins_as_asked(loaded, room_file: Path, tmp_path: Path) -> None:
    for fade_in, fade_out in ((0.0, 0.05), (0.5, 0.5), (0.0, 0.0)):
        out = tmp_path / f"{fade_in}-{fade_out}.wav"
        request = Request(seconds=2.0, delivery=DeliveryConfig(fade_in=fade_in, fade_out=fade_out))
        job.infer(Job(room_file, out, 0, "x"), audio.read(room_file), loaded, request)
        sound = audio.read(out).samples
        ends = np.abs(sound[:, -1]).max() < 1e-6
        assert ends == (fade_out > 0)
        if fade_in:
            assert audio.rms_dbfs(sound[:, :4_800]) < audio.rms_dbfs(sound[:, 24_000:48_000]) - 6.0


@pytest.mark.parametrize("suffix", [".ogg", ".mp3", ".m4a"])
def test_lossy_files_are_exactly_as_long_and_hold_the_record(
    loaded, room_file: Path, tmp_path: Path, suffix: str
) -> None:
    if suffix == ".m4a":
        pytest.importorskip("av")
    out = tmp_path / f"out{suffix}"
    record = run(loaded, room_file, out, seconds=1.2345)
    n_samples = sum(block.shape[1] for block in audio.read_blocks(out, 48_000))
    assert n_samples == record["output"]["n_samples"] == round(1.2345 * 48_000)
    assert provenance.is_ours(out)
    assert provenance.sha256(room_file).encode() in out.read_bytes()
    assert record["output"]["lufs"] == pytest.approx(DELIVERY.lufs, abs=0.5)
    assert record["output"]["true_peak_dbtp"] < DELIVERY.true_peak


def test_rates_that_a_format_does_not_have_are_named(loaded, room_file: Path, tmp_path: Path) -> None:
    request = Request(delivery=DeliveryConfig(96_000))
    (refused,) = job.infer_many([Job(room_file, tmp_path / "out.mp3", 0, "x")], loaded, request)
    assert "cannot have a sample rate of 96000 Hz; expected one of 8000" in refused.reason


def test_without_pyav_the_extra_is_named(loaded, room_file: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("silent2music.audio.formats.find_spec", lambda name: None)
    (refused,) = job.infer_many([Job(room_file, tmp_path / "out.m4a", 0, "x")], loaded)
    assert refused.reason == f"{tmp_path / 'out.m4a'} needs PyAV to be written; install it with: {INSTALL}."


@pytest.mark.parametrize("name", LOUDNESS)
def test_loudness_presets_are_met(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    music = Waveform((0.1 * rng.standard_normal((2, 96_000))).astype(np.float32), 48_000)
    lufs, true_peak = LOUDNESS[name]
    figures = levelling.write_music(
        tmp_path / "out.wav", [music], DeliveryConfig(lufs=lufs, true_peak=true_peak)
    )
    assert figures["lufs"] == pytest.approx(lufs, abs=0.1)
    assert figures["true_peak_dbtp"] < true_peak


def test_a_stream_of_wav_is_the_file(loaded, room_file: Path, tmp_path: Path) -> None:
    sink = io.BytesIO()
    record = job.infer_to(sink, room_file, loaded, Request(SamplingConfig(seed=4), 0.5))
    made = run(loaded, room_file, tmp_path / "room.music.wav", seed=4, seconds=0.5)
    assert sink.getvalue() == (tmp_path / "room.music.wav").read_bytes()
    assert record == made


@pytest.mark.parametrize("seconds", [0.0, -1.0, 0.4, float("nan"), float("inf")])
def test_impossible_lengths_are_refused(seconds: float) -> None:
    with pytest.raises(ConfigError, match=r"expected at least 0\.5"):
        Request(seconds=seconds)


# ---- models and devices ----


def test_model_that_ships_is_found_in_a_package_and_in_a_checkout(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(config, "__file__", str(tmp_path / "silent2music" / "config.py"))
    with pytest.raises(CheckpointError, match="No model came with this installation"):
        config.default_model()
    for place in (tmp_path / "checkpoints" / "base", tmp_path / "silent2music" / "checkpoints" / "base"):
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        assert config.default_model() == place


def test_unknown_and_absent_devices_are_named(model_folder: Path, monkeypatch) -> None:
    import torch

    with pytest.raises(ConfigError, match="Device 'tpu' is unknown; expected one of cpu, cuda, mps"):
        load(model_folder, "tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="Device 'cuda' is not available"):
        load(model_folder, "cuda")
    assert LazyModel(model_folder).device == "cpu"


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "codec/config.json", "codec/model.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_model_folder_is_named(model_folder: Path, tmp_path: Path, file: str, damage: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    path = folder / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=Path(file).name.replace(".", r"\.")):
        load(folder)


def test_a_mismatching_model_folder_names_the_field(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    values = json.loads((folder / "config.json").read_text())
    values["decoder"]["n_layers"] = 2
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="Weight 'decoder"):
        load(folder)
    values["decoder"]["wings"] = 2
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"decoder\.wings"):
        load(folder)


def test_another_codec_than_the_models_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    values = json.loads((folder / "config.json").read_text())
    values["codec_checksum"] = "0" * 16
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="trained on codec tokens 0000"):
        load(folder)
