"""The closed-form fit, the losses, and the loop of both trainable codecs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from silent2music import audio, distances
from silent2music.bundled_codec import SILENCE_CODE, BundledCodec
from silent2music.codec import load_codec, save_codec
from silent2music.config import CodecConfig, CodecTrainingConfig, RecipeConfig, SeanetConfig, load_recipe
from silent2music.errors import CheckpointError, ConfigError, DataError
from silent2music.training import codec_loop
from silent2music.training.codec import fit_codec, kmeans
from silent2music.training.codec_loop import measure, take_correction, train_codec
from silent2music.training.codec_trainers import follow
from silent2music.training.excerpts import code_music, crops
from silent2music.training.running import STATE_FILE
from silent2music.weights import read_metadata

RATE = 24_000
SMALL = CodecConfig(n_fft=960, n_components=16, n_codebooks=3, codebook_size=16, griffin_lim_iterations=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three files of struck tones, 6 s each, at two rates."""
    folder = tmp_path_factory.mktemp("music")
    rng = np.random.default_rng(1)
    files = []
    for i, rate in enumerate((RATE, RATE, 48_000)):
        t = np.arange(6 * rate) / rate
        pitch = np.repeat(rng.choice([196.0, 261.6, 311.1, 392.0, 523.3], 24), rate // 4)
        samples = 0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / rate) * np.exp(-(t % 0.25) / 0.1)
        samples += 0.005 * rng.standard_normal(len(t))
        files.append(folder / f"{i}.wav")
        audio.write(files[-1], audio.Waveform(samples[None].astype(np.float32), rate))
    return files


@pytest.fixture(scope="module")
def fitted(music: list[Path]) -> BundledCodec:
    return fit_codec(music, SMALL, n_iterations=6)


# The closed form


def test_kmeans_finds_separate_clusters() -> None:
    centres = 10.0 * torch.randn(8, 4, generator=generator())
    vectors = centres.repeat(50, 1) + 0.01 * torch.randn(400, 4, generator=generator(1))
    found = kmeans(vectors, 8, generator(2), 20)
    assert torch.cdist(centres, found).min(1).values.max() < 0.02


def test_kmeans_moves_dead_entries() -> None:
    """Vectors of three kinds only: the entries left over all go where the error is, none stays unused."""
    vectors = torch.eye(3).repeat(100, 1) + 0.1 * torch.randn(300, 3, generator=generator())
    found = kmeans(vectors, 30, generator(1), 20)
    used = torch.cdist(vectors, found).argmin(1).unique()
    assert len(used) >= 27


def test_kmeans_heeds_weights() -> None:
    vectors = torch.tensor([[0.0], [1.0]]).repeat(50, 1)
    weights = torch.tensor([1.0, 3.0]).repeat(50)
    assert torch.allclose(kmeans(vectors, 1, generator(), 3, weights), torch.tensor([[0.75]]))


def test_the_fit_depends_on_the_seed_alone(music: list[Path], fitted: BundledCodec) -> None:
    assert fit_codec(music, SMALL, n_iterations=6).token_checksum() == fitted.token_checksum()
    assert fit_codec(music, SMALL, seed=1, n_iterations=6).token_checksum() != fitted.token_checksum()


def test_the_fit_is_orthonormal_and_knows_silence(fitted: BundledCodec) -> None:
    assert torch.allclose(fitted.components @ fitted.components.T, torch.eye(16), atol=2e-3)
    assert fitted.codebooks[0, SILENCE_CODE].eq(0.0).all()
    assert fitted.scales[SILENCE_CODE] == 0.0
    assert (fitted.scales[1:] > 0.0).all()


def test_each_codebook_lowers_the_error(music: list[Path], fitted: BundledCodec) -> None:
    vectors = fitted.project(torch.from_numpy(audio.read(music[0]).samples))
    codes = fitted.quantise(vectors).transpose(1, 2)
    errors = [float((fitted.vectors(codes[:, :k]) - vectors).square().sum()) for k in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.25 * float(vectors.square().sum())


def test_progress_is_told(music: list[Path]) -> None:
    told: list[tuple[str, float]] = []
    fit_codec(music, SMALL, n_iterations=1, progress=lambda stage, fraction: told.append((stage, fraction)))
    assert {stage for stage, _ in told} == {"components", "projection", "codebooks"}
    assert told[-1] == ("codebooks", 1.0)


def test_too_little_music_is_refused(music: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least 2048"):
        fit_codec(music, replace(SMALL, codebook_size=1024))
    (tmp_path / "text.wav").write_text("no audio")
    with pytest.raises(DataError, match="hold 0 codec frames"):
        fit_codec([tmp_path / "text.wav"], SMALL)


# Losses


def test_log_mel_distance_of_a_gain_is_its_logarithm() -> None:
    noise = 0.1 * torch.randn(2, RATE, generator=generator())
    distance = distances.log_mel_distance(noise, noise / 2.0, RATE)
    assert torch.allclose(distance, torch.full((2,), np.log(2.0), dtype=torch.float32), atol=0.02)
    assert distances.log_mel_distance(noise, noise, RATE).abs().max() == 0.0


def test_log_mel_distance_has_a_floor() -> None:
    """Both are far below -80 dBFS in every band."""
    quiet = 1e-7 * torch.randn(1, RATE, generator=generator())
    assert distances.log_mel_distance(quiet, torch.zeros(1, RATE), RATE) == 0.0


def test_losses_have_finite_gradients_at_silence() -> None:
    silent = torch.zeros(1, RATE, requires_grad=True)
    sound = 0.1 * torch.randn(1, RATE, generator=generator())
    found = distances.sound_distances(sound, silent, RATE)
    assert set(found) == set(distances.SOUND_DISTANCES)
    torch.stack(list(found.values())).sum().backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()


def test_sound_distances_tell_a_steady_error_from_a_wavering_one() -> None:
    noise = 0.1 * torch.randn(1, RATE, generator=generator())
    tremolo = 1.0 + 0.5 * torch.sin(2 * np.pi * 20.0 * torch.arange(RATE) / RATE)
    steady, wavering = (distances.sound_distances(noise, noise * gain, RATE) for gain in (0.5, tremolo))
    assert torch.allclose(steady["mel"], distances.log_mel_distance(noise, noise * 0.5, RATE).mean())
    assert steady["slope"] < 0.01
    assert wavering["slope"] > 5.0 * steady["slope"]
    # Half of a magnitude is 0.76 of it to the power 0.4.
    louder = distances.sound_distances(noise, noise * 0.0, RATE, ["stft"])["stft"]
    assert float(steady["stft"] / louder) == pytest.approx(1.0 - 0.5**0.4, abs=0.01)


def test_level_distance_sees_the_energy_and_not_when_it_comes() -> None:
    noise = 0.1 * torch.randn(1, RATE, generator=generator())
    halved = distances.sound_distances(noise, noise * 0.5, RATE)["level"]
    assert halved == pytest.approx(np.log(2.0), abs=1e-3)
    tremolo = 1.0 + 0.5 * torch.sin(2 * np.pi * 20.0 * torch.arange(RATE) / RATE)
    wavering = distances.sound_distances(noise, noise * tremolo / 1.125**0.5, RATE)
    assert wavering["level"] < 0.2 * wavering["mel"]


def test_pitch_distance_tells_neighbouring_notes_apart() -> None:
    t = torch.arange(2 * RATE) / RATE

    def tone(hz: float) -> torch.Tensor:
        return 0.3 * torch.sin(2 * np.pi * hz * t)[None]

    def distance(first: torch.Tensor, second: torch.Tensor) -> float:
        return float(distances.pitch_distance(first, second, RATE))

    semitone = 440.0 * 2.0 ** (1 / 12)
    assert distance(tone(440.0), 0.1 * tone(440.0)) < 0.01
    assert distance(tone(440.0), tone(semitone)) > 0.7
    # A quieter note of a chord counts, and where all is silent there is nothing to hear.
    chord = tone(440.0) + 0.2 * tone(semitone)
    assert distance(chord, tone(440.0)) > 0.05
    assert distance(0.0 * chord, chord) == 0.0


def test_roughness_is_how_much_more_a_tone_wavers() -> None:
    t = torch.arange(2 * RATE) / RATE
    tone = 0.3 * torch.sin(2 * np.pi * 1000.0 * t)[None]

    def shaken(rate_hz: float, phase: float = 0.0) -> torch.Tensor:
        return tone * (1.0 + 0.5 * torch.sin(2 * np.pi * rate_hz * t + phase))

    def distance(first: torch.Tensor, second: torch.Tensor) -> float:
        return float(distances.added_roughness(first, second, RATE))

    assert distance(tone, 0.1 * tone) < 0.01
    # An RMS of 0.35, which the bands' window smooths, and the mean over a period of 15 Hz takes from.
    assert 0.2 < distance(tone, shaken(40.0)) < 0.36
    assert distance(shaken(40.0), tone) < 0.01
    assert distance(tone, shaken(2.0)) < 0.05
    # When it wavers does not count.
    assert distance(shaken(40.0), shaken(40.0, np.pi / 2)) < 0.04


def test_hinge_losses() -> None:
    sure, fooled = [torch.full((1, 2), 2.0)], [torch.full((1, 2), -2.0)]
    assert codec_loop.discriminator_loss(sure, fooled) == 0.0
    assert codec_loop.discriminator_loss(fooled, sure) == 6.0
    assert codec_loop.generator_loss(sure) == 0.0
    maps = [[torch.ones(2, 3)]]
    assert codec_loop.feature_loss(maps, [[torch.zeros(2, 3)]]) == 1.0


def test_the_balancer_shares_the_gradient_by_weight() -> None:
    balancer = codec_loop.Balancer({"loud": 1.0, "faint": 3.0})
    leaf = torch.zeros(2, requires_grad=True)
    gradient = balancer.gradient({"loud": 1000.0 * leaf[0], "faint": 0.001 * leaf[1]}, leaf)
    assert torch.allclose(gradient, torch.tensor([0.25, 0.75]))


# The loop


def recipe(**changes: Any) -> RecipeConfig:
    settings = dict(
        batch_size=2,
        crop_seconds=0.4,
        cached_minutes=0.3,
        max_steps=4,
        warmup_steps=1,
        validate_every=4,
        n_validation_crops=2,
    )
    return RecipeConfig(
        codec=CodecConfig(decoder_layers=1, correction_dim=16),
        seanet=SeanetConfig(dim=8, n_filters=2, ratios=(8, 5), n_codebooks=2, codebook_size=8),
        codec_training=CodecTrainingConfig(**{**settings, **changes}),
    )


@pytest.fixture
def start(fitted: BundledCodec, tmp_path: Path) -> Path:
    save_codec(fitted, tmp_path / "start")
    return tmp_path / "start"


def sound(music: list[Path]) -> Tensor:
    return torch.from_numpy(audio.read(music[0]).samples[None, :, : 4 * RATE])


def test_corrections_start_as_nothing(fitted: BundledCodec, music: list[Path]) -> None:
    torch.manual_seed(0)
    corrected = BundledCodec(replace(fitted.config, decoder_layers=2, correction_dim=16))
    corrected.load_state_dict(fitted.state_dict(), strict=False)
    codes = fitted.encode(sound(music))
    assert torch.equal(corrected.encode(sound(music)), codes)
    # But for the noise floor that a new correction adds, 60 dB or more below the sound.
    magnitudes = [codec.magnitudes(fitted.vectors(codes)) for codec in (corrected, fitted)]
    assert torch.allclose(*magnitudes, rtol=0.05, atol=1e-4)


def test_a_correction_depends_on_the_frames_that_it_says(fitted: BundledCodec) -> None:
    torch.manual_seed(0)
    codec = BundledCodec(replace(fitted.config, decoder_layers=3, correction_dim=16))
    codec.load_state_dict(fitted.state_dict(), strict=False)
    decoder = codec.decoder
    assert decoder is not None
    for layer in (decoder.gain, decoder.blend, decoder.known):
        torch.nn.init.normal_(layer.weight, std=0.2)
    codes = torch.randint(1, 16, (1, 3, 60), generator=generator())
    other = codes.clone()
    other[:, 0, 30] = codes[:, 0, 30] % 15 + 1
    first, second = (codec.magnitudes(codec.vectors(c)) for c in (codes, other))
    changed = ((first - second).abs().amax(2) > 1e-9).reshape(60, -1).any(1).nonzero()[:, 0]
    assert (int(changed.min()), int(changed.max())) == (30 - decoder.ahead, 30 + decoder.behind)
    # The same vectors, said to be of fewer codebooks, are corrected otherwise.
    assert not torch.equal(codec.magnitudes(codec.vectors(codes), 2), first)
    codes[:, 0, 20:25] = SILENCE_CODE
    assert not codec.magnitudes(codec.vectors(codes))[:, 40:50].any()


def encoding(fitted: BundledCodec, seed: int = 0) -> BundledCodec:
    """The fitted codec with an encoder that changes nothing yet."""
    torch.manual_seed(seed)
    codec = BundledCodec(replace(fitted.config, encoder_layers=2, encoder_dim=16))
    codec.load_state_dict(fitted.state_dict(), strict=False)
    return codec


def test_an_encoder_starts_as_nothing_and_decides_tokens(
    fitted: BundledCodec, music: list[Path], tmp_path: Path
) -> None:
    codec = encoding(fitted)
    codes = fitted.encode(sound(music))
    assert torch.equal(codec.encode(sound(music)), codes)
    untrained = codec.token_checksum()
    assert untrained != fitted.token_checksum()  # it will be trained
    assert codec.encoder is not None
    torch.nn.init.normal_(codec.encoder.move.weight, std=0.5)
    assert codec.token_checksum() != untrained
    assert not torch.equal(codec.encode(sound(music)), codes)
    save_codec(codec, tmp_path)
    loaded = load_codec(tmp_path)
    assert loaded.token_checksum() == codec.token_checksum()
    again = loaded.encode(sound(music))
    save_codec(loaded, tmp_path)
    assert torch.equal(load_codec(tmp_path).encode(sound(music)), again)
    silence = torch.zeros(1, 1, 20 * 960)
    beside = torch.cat([silence, sound(music)[..., : 20 * 960], silence], dim=-1)
    assert codec.encode(beside)[..., :19].eq(SILENCE_CODE).all()
    assert codec.encode(silence).eq(SILENCE_CODE).all()


def test_an_encoder_depends_on_the_frames_that_it_says(fitted: BundledCodec) -> None:
    encoder = encoding(fitted).encoder
    assert encoder is not None
    torch.nn.init.normal_(encoder.move.weight, std=0.5)
    vectors = torch.randn(1, 60, 16, generator=generator())
    other = vectors.clone()
    other[0, 30] += 1.0
    moved = (encoder(vectors) - encoder(other)).abs().amax(2)[0]
    changed = (moved > 1e-7).nonzero()[:, 0]
    assert (int(changed.min()), int(changed.max())) == (30 - encoder.ahead, 30 + encoder.behind)


def test_codebooks_follow_the_vectors(fitted: BundledCodec, music: list[Path]) -> None:
    """The error of other music than that of the fit shrinks, and silence stays what it is."""
    torch.manual_seed(0)
    codec = BundledCodec(fitted.config)
    codec.load_state_dict(fitted.state_dict())
    turned = torch.linalg.qr(torch.randn(16, 16, generator=generator())).Q
    vectors = fitted.project(sound(music)[:, 0]) @ turned

    def error() -> float:
        return float((codec.vectors(codec.quantise(vectors).mT) - vectors).square().sum())

    before = error()
    for _ in range(100):
        follow(codec, codec.quantise(vectors)[0], vectors[0])
    assert error() < 0.5 * before
    assert not codec.codebooks[0, SILENCE_CODE].any()
    assert codec.scales[SILENCE_CODE] == 0.0
    assert (codec.scales >= 0.0).all()


@pytest.mark.slow
def test_learning_tokens_helps_and_keeps_vectors_near(
    fitted: BundledCodec, music: list[Path], start: Path, tmp_path: Path
) -> None:
    settings = recipe(
        objective="magnitudes",
        learn_tokens=True,
        max_steps=150,
        validate_every=150,
        crop_seconds=2.0,
        cached_minutes=1.2,
        learning_rate=3e-3,
        warmup_steps=5,
        ema_decay=0.9,
        codebook_dropout=0.0,
    )
    settings = replace(settings, codec=replace(settings.codec, encoder_layers=1, encoder_dim=16))
    trained = load_codec(train_codec(settings, music, music, tmp_path / "run", start))
    assert isinstance(trained, BundledCodec)
    assert trained.token_checksum() != fitted.token_checksum()
    wanted = fitted.features(sound(music)[:, 0])
    errors = []
    for codec in (fitted, trained):
        found = codec.compressed(codec.vectors(codec.encode(sound(music))))
        frames = [x.reshape(1, -1, 481) for x in (wanted, found)]
        errors.append(float(distances.magnitude_distances(frames[0], frames[1], 0.4, RATE)["mel"]))
    assert errors[1] < 0.95 * errors[0]
    plain = fitted.project(sound(music)[:, 0])
    moved = trained.vectors(trained.encode(sound(music)))
    assert (moved - plain).square().sum() < 0.5 * plain.square().sum()
    assert trained.encode(torch.zeros(1, 1, 9600)).eq(SILENCE_CODE).all()
    assert "linear" in (tmp_path / "run" / "log.jsonl").read_text()
    # Training on sound keeps the new tokens.
    later = train_codec(recipe(max_steps=1), music, music, tmp_path / "later", tmp_path / "run" / "codec")
    assert load_codec(later).token_checksum() == trained.token_checksum()


def test_a_correction_starts_from_that_of_another_codec(
    fitted: BundledCodec, music: list[Path], tmp_path: Path
) -> None:
    """On other components of the same spectra, with more layers, a longer past and fewer codebooks, it does the same."""
    torch.manual_seed(0)
    other = BundledCodec(replace(fitted.config, decoder_layers=2, correction_dim=16))
    other.load_state_dict(fitted.state_dict(), strict=False)
    assert other.decoder is not None
    torch.nn.init.normal_(other.decoder.gain.weight, std=0.2)
    torch.nn.init.normal_(other.decoder.known.weight, std=0.2)
    save_codec(other, tmp_path / "other")
    turned = torch.linalg.qr(torch.randn(16, 16, generator=generator())).Q
    sizes = {"decoder_layers": 3, "correction_dim": 16, "correction_behind": 6, "n_codebooks": 2}
    codec = BundledCodec(replace(fitted.config, **sizes))
    codec.components.copy_(turned.T @ other.components)
    take_correction(codec, tmp_path / "other")
    vectors = fitted.project(sound(music)[:, 0])
    first, second = other.compressed(vectors, 2), codec.compressed(vectors @ turned, 2)
    assert torch.allclose(first, second, rtol=0.02, atol=1e-3)
    assert not torch.allclose(first, fitted.compressed(vectors), rtol=0.02, atol=1e-3)
    for changes in ({"correction_dim": 8}, {"decoder_layers": 1}, {"correction_behind": 1}):
        with pytest.raises(ConfigError, match="does not fit; expected the same sample_rate"):
            take_correction(BundledCodec(replace(codec.config, **changes)), tmp_path / "other")
    save_codec(fitted, tmp_path / "plain")
    with pytest.raises(ConfigError, match="holds no bundled codec with a correction"):
        take_correction(codec, tmp_path / "plain")


def test_coded_music_is_the_music_and_is_kept(
    fitted: BundledCodec, music: list[Path], tmp_path: Path
) -> None:
    coded = code_music(fitted, music, 1.0, 0, tmp_path)
    assert coded.codes.shape == (8, 3, 200)
    assert coded.sound.shape == (8, 200 * fitted.config.samples_per_code)
    for start, n_frames in ((0, 200), (0, 30), (77, 50), (190, 10)):
        codes, heard = coded.crops([3, 5], start, n_frames)
        sound = torch.from_numpy(coded.sound[[3, 5]].astype(np.float32) / 32768.0)
        assert torch.equal(codes, fitted.encode(sound[:, None])[..., start : start + n_frames])
        assert torch.equal(heard, sound[:, start * 960 : (start + n_frames) * 960])
        # A frame's features need one frame more on either side.
        inner = fitted.features(heard)[:, 1:-1], fitted.features(sound)[:, start + 1 : start + n_frames - 1]
        assert torch.allclose(*inner, atol=1e-5)
    made = (tmp_path / "codes.npy").stat().st_mtime_ns
    code_music(fitted, music, 1.0, 0, tmp_path)
    assert (tmp_path / "codes.npy").stat().st_mtime_ns == made
    assert code_music(fitted, music, 0.5, 0, tmp_path).codes.shape == (4, 3, 200)


def test_half_of_coded_music_goes_through_equalisers_first(
    fitted: BundledCodec, music: list[Path], tmp_path: Path
) -> None:
    coded = code_music(fitted, music, 1.0, 0, tmp_path / "equal", equaliser_db=8.0)
    plain = code_music(fitted, music, 1.0, 0, tmp_path / "plain")
    sound = torch.from_numpy(coded.sound.astype(np.float32) / 32768.0)
    assert torch.equal(torch.from_numpy(coded.codes.astype(np.int64)), fitted.encode(sound[:, None]))
    # The files are shorter than an excerpt, so that the same sound is read for both.
    changed = [not np.array_equal(a, b) for a, b in zip(coded.sound, plain.sound, strict=True)]
    assert 0 < sum(changed) < len(changed)


def test_a_learned_decoder_streams_as_it_decodes(fitted: BundledCodec, music: list[Path]) -> None:
    torch.manual_seed(0)
    codec = BundledCodec(replace(fitted.config, decoder_layers=2, correction_dim=16))
    codec.load_state_dict(fitted.state_dict(), strict=False)
    assert codec.decoder is not None
    torch.nn.init.normal_(codec.decoder.gain.weight, std=0.2)
    torch.nn.init.normal_(codec.decoder.blend.weight, std=0.1)
    codes = codec.encode(sound(music))
    whole = codec.decode(codes)
    assert (whole - fitted.decode(codes)).abs().max() > 1e-3
    for n_frames in (1, 7, 60):
        pieces = torch.cat(list(codec.decode_stream(codes.split(n_frames, dim=-1))), dim=-1)
        assert torch.allclose(pieces, whole, atol=1e-4)
    live = torch.cat(list(codec.live().decode_stream(codes.split(1, dim=-1))), dim=-1)
    assert live.shape == whole.shape
    assert live.isfinite().all()
    assert codec.live().lookahead_seconds < codec.lookahead_seconds
    silence = codec.decode(torch.full((1, 3, 10), SILENCE_CODE))
    assert silence.abs().max() < 1e-4


@pytest.mark.parametrize(("objective", "n_steps"), [("sound", 60), ("magnitudes", 150)])
def test_training_the_decoder_helps_and_keeps_the_tokens(
    fitted: BundledCodec, music: list[Path], start: Path, tmp_path: Path, objective: str, n_steps: int
) -> None:
    settings = recipe(
        objective=objective,
        max_steps=n_steps,
        validate_every=n_steps,
        learning_rate=3e-3,
        warmup_steps=5,
        ema_decay=0.9,
        codebook_dropout=0.0,
    )
    folder = train_codec(settings, music, music, tmp_path / "run", start)
    trained = load_codec(folder)
    assert torch.equal(trained.encode(sound(music)), fitted.encode(sound(music)))
    assert trained.decoder_version != fitted.decoder_version
    before, after = (measure(codec, sound(music))["log_mel"] for codec in (fitted, trained))
    assert after < 0.95 * before


@pytest.mark.parametrize(
    ("kind", "objective", "adversarial", "learn_tokens"),
    [
        ("bundled", "sound", 0.33, False),
        ("bundled", "sound", 0.0, False),
        ("bundled", "magnitudes", 0.0, False),
        ("bundled", "magnitudes", 0.0, True),
        ("seanet", "sound", 0.33, False),
        ("seanet", "sound", 0.0, False),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    music: list[Path],
    start: Path,
    tmp_path: Path,
    kind: str,
    objective: str,
    adversarial: float,
    learn_tokens: bool,
) -> None:
    settings = recipe(
        kind=kind,
        objective=objective,
        learn_tokens=learn_tokens,
        adversarial_weight=adversarial,
        discriminator_filters=2,
    )
    settings = replace(settings, codec=replace(settings.codec, encoder_layers=int(learn_tokens)))
    first = start if kind == "bundled" else None
    whole = train_codec(settings, music, music, tmp_path / "whole", first)
    logged = (tmp_path / "whole" / "log.jsonl").read_text()
    assert [name in logged for name in ("spectral", "adversarial")] == [True, adversarial > 0]
    # Stopped after one step (the time is up), then resumed.
    short = replace(settings, codec_training=replace(settings.codec_training, max_minutes=1e-9))
    train_codec(short, music, music, tmp_path / "parts", first)
    assert json.loads(read_metadata(tmp_path / "parts" / STATE_FILE)["run"])["step"] == 1
    parts = train_codec(settings, music, music, tmp_path / "parts", first, resume=True)
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert (whole / "config.json").read_bytes() == (parts / "config.json").read_bytes()


def test_what_cannot_be_trained_is_said(music: list[Path], start: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind is 'vinyl'; expected bundled or seanet"):
        train_codec(recipe(kind="vinyl"), music, music, tmp_path / "a")
    with pytest.raises(ConfigError, match="needs a fitted one"):
        train_codec(recipe(), music, music, tmp_path / "b")
    with pytest.raises(ConfigError, match="objective is 'taste'; expected sound or magnitudes"):
        train_codec(recipe(objective="taste"), music, music, tmp_path / "f", start)
    for settings in ({"kind": "seanet"}, {"adversarial_weight": 1.0}):
        with pytest.raises(ConfigError, match="Only the bundled codec without a discriminator"):
            train_codec(recipe(objective="magnitudes", **settings), music, music, tmp_path / "g", start)
    nothing = replace(recipe(), codec=CodecConfig())
    with pytest.raises(ConfigError, match="nothing to train"):
        train_codec(nothing, music, music, tmp_path / "c", start)
    for objective in ("sound", "magnitudes"):  # the second has no encoder
        with pytest.raises(ConfigError, match="Tokens are learned on magnitudes by an encoder"):
            train_codec(recipe(objective=objective, learn_tokens=True), music, music, tmp_path / "h", start)
    with pytest.raises(CheckpointError, match="no state to resume from"):
        train_codec(recipe(), music, music, tmp_path / "d", start, resume=True)
    train_codec(recipe(max_steps=1), music, music, tmp_path / "e", start)
    with pytest.raises(CheckpointError, match="holds a run already"):
        train_codec(recipe(), music, music, tmp_path / "e", start)


def test_crops_depend_on_the_generator_alone(music: list[Path]) -> None:
    first, second, other = (crops(music, 5, 2400, RATE, np.random.default_rng(s), -30.0) for s in (0, 0, 1))
    assert first.shape == (5, 2400)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_short_file_is_followed_by_silence(music: list[Path]) -> None:
    assert crops(music[:1], 1, 8 * RATE, RATE, np.random.default_rng(0), 0.0)[0, 6 * RATE :].eq(0.0).all()


def test_unreadable_music_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of 20 files could be read"):
        crops([tmp_path / "missing.wav"], 1, 2400, RATE, np.random.default_rng(0), 0.0)


def test_the_recipe_does_a_step(music: list[Path], start: Path, tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "recipes" / "codec"
    small = [
        "codec_training.max_steps=1",
        "codec_training.crop_seconds=0.4",
        "codec_training.n_validation_crops=2",
        "codec_training.cached_minutes=0.2",
    ]
    shipped = load_recipe(folder, small)
    assert isinstance(load_codec(train_codec(shipped, music, music, tmp_path / "run", start)), BundledCodec)
