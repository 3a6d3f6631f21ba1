"""The bundled codec's tokens, alignment, silence and files; the other codecs behind the same protocol."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from silent2music import audio as audio_module
from silent2music.bundled_codec import SILENCE_CODE, BundledCodec
from silent2music.codec import EncodecCodec, SeanetCodec, load_codec, save_codec
from silent2music.config import CodecConfig, SeanetConfig
from silent2music.errors import AudioError, CheckpointError, ConfigError

RATE = 24_000


def sine(frequency_hz: float, seconds: float = 1.0, amplitude: float = 0.5) -> Tensor:
    """`[1, 1, N]`."""
    t = torch.arange(round(seconds * RATE)) / RATE
    return amplitude * torch.sin(2 * torch.pi * frequency_hz * t)[None, None]


@pytest.fixture(scope="module")
def codec(codec_folder: Path) -> BundledCodec:
    loaded = load_codec(codec_folder)
    assert isinstance(loaded, BundledCodec)
    return loaded


def test_shapes_and_types(codec: BundledCodec) -> None:
    audio = torch.cat([sine(440.0, 0.5), sine(330.0, 0.5)])
    codes = codec.encode(audio)
    assert codes.dtype == torch.int64
    assert codes.shape == (2, 4, 13)  # 12000 samples are 12.5 frames of 960
    assert codec.decode(codes).shape == (2, 1, 13 * 960)
    assert codec.codebook_vectors().shape == (4, 32, 16)
    assert codec.codebook_vectors().dtype == torch.float32
    assert (codec.sample_rate, codec.frame_rate, codec.channels) == (24_000, 25.0, 1)
    assert (codec.n_codebooks, codec.codebook_size) == (4, 32)


@pytest.mark.parametrize("n_samples", [1, 959, 960, 961])
def test_every_begun_frame_gets_codes(codec: BundledCodec, n_samples: int) -> None:
    assert codec.encode(torch.zeros(1, 1, n_samples)).shape[-1] == -(-n_samples // 960)


def test_a_row_does_not_depend_on_its_batch(codec: BundledCodec) -> None:
    audio = torch.cat(
        [sine(440.0), 0.1 * torch.randn(1, 1, RATE, generator=torch.Generator().manual_seed(1))]
    )
    codes = codec.encode(audio)
    assert torch.equal(codes[1:], codec.encode(audio[1:]))
    assert torch.allclose(codec.decode(codes)[1:], codec.decode(codes[1:]), atol=1e-5)
    assert torch.equal(codec.decode(codes), codec.decode(codes))


def music(codec_folder: Path, seconds: float) -> Tensor:
    """The start of what the codec was fitted on: a struck tone every quarter second, `[1, 1, N]`."""
    samples = audio_module.read(codec_folder.parent / "music.wav").samples
    return torch.from_numpy(samples[None, :, : round(seconds * RATE)])


def test_music_survives(codec: BundledCodec, codec_folder: Path) -> None:
    """Level, attacks and pitches of 16 notes come through, with 4 codebooks of 32 entries."""
    audio = music(codec_folder, 4.0)
    rebuilt = codec.decode(codec.encode(audio))
    notes, got = (x[0, 0].reshape(16, -1) for x in (audio, rebuilt))
    level_db = 10 * torch.log10(got.square().mean(1) / notes.square().mean(1))
    assert level_db.abs().max() < 3.0
    # A quarter second resolves 4 Hz; the nearest two pitches are 43 Hz apart.
    peaks = [torch.fft.rfft(x * torch.hann_window(x.shape[1])).abs().argmax(1) for x in (notes, got)]
    assert (peaks[0] - peaks[1]).abs().float().mean() < 2.0
    attack, before = got[1:, 480:1440].square().mean(1), got[:-1, -960:].square().mean(1)
    assert (attack > 3.0 * before).float().mean() > 0.9


def test_decoding_in_pieces_is_decoding_whole(codec: BundledCodec, codec_folder: Path) -> None:
    codes = codec.encode(music(codec_folder, 12.0))  # longer than a decoding block
    whole = codec.decode(codes)
    for n_frames in (1, 13, 100):
        pieces = list(codec.decode_stream(codes.split(n_frames, dim=-1)))
        assert torch.allclose(torch.cat(pieces, dim=-1), whole, atol=1e-4)
    behind = codes.shape[-1] * 960 - sum(piece.shape[-1] for piece in pieces[:-1])
    assert behind <= (codec.lookahead_seconds + 100 / 25) * RATE


def test_later_codes_change_nothing_before_the_lookahead(codec: BundledCodec, codec_folder: Path) -> None:
    codes = codec.encode(music(codec_folder, 3.0))
    changed = codes.clone()
    changed[..., 50:] = SILENCE_CODE
    n_same = round((2.0 - codec.lookahead_seconds) * RATE)
    first, second = (codec.decode(c)[..., :n_same] for c in (codes, changed))
    assert torch.allclose(first, second, atol=1e-5)


def test_the_first_codebooks_are_those_of_all(codec: BundledCodec, codec_folder: Path) -> None:
    """All are searched together, so the checksum is of all, however many are used."""
    audio = music(codec_folder, 4.0)
    codes = codec.encode(audio)
    assert torch.equal(codec.encode(audio, 2), codes[:, :2])
    assert codec.token_checksum(2) == codec.token_checksum()
    fewer = list(codec.decode_stream(codes[:, :2].split(7, dim=-1)))
    assert torch.allclose(torch.cat(fewer, dim=-1), codec.decode(codes[:, :2]), atol=1e-4)
    with pytest.raises(AudioError, match="of 4 codebooks after one of 2; expected as many in each"):
        list(codec.decode_stream([codes[:, :2], codes]))


def test_each_codebook_brings_the_sound_nearer(codec: BundledCodec, codec_folder: Path) -> None:
    audio = music(codec_folder, 4.0)
    wanted = codec.features(audio[:, 0])
    codes = codec.encode(audio)
    errors = [
        (codec.features(codec.decode(codes[:, :k])[:, 0]) - wanted).square().sum().item() for k in range(1, 5)
    ]
    assert errors == sorted(errors, reverse=True)


def test_a_loud_strange_sound_is_not_taken_for_silence(codec: BundledCodec) -> None:
    """A held tone is unlike every struck one in the fit, and nearer to nothing than to any of them."""
    rebuilt = codec.decode(codec.encode(sine(440.0, amplitude=0.3)))
    assert rebuilt[..., 4800:-4800].square().mean().sqrt() > 0.02


def test_a_fade_fades(codec: BundledCodec, codec_folder: Path) -> None:
    audio = music(codec_folder, 4.0) * torch.logspace(0.0, -2.0, 4 * RATE)
    seconds = codec.decode(codec.encode(audio))[0, 0].reshape(4, -1)
    level_db = 10 * torch.log10(seconds.square().mean(1))
    assert (level_db.diff() < -5.0).all()


def test_silence_is_one_entry_and_decodes_to_nothing(codec: BundledCodec) -> None:
    codes = codec.encode(torch.zeros(1, 1, RATE))
    assert codes.eq(SILENCE_CODE).all()
    assert codec.decode(codes).abs().max() < 1e-4  # -80 dBFS
    codes[:, 1:] = torch.randint(0, 32, codes[:, 1:].shape, generator=torch.Generator().manual_seed(3))
    assert codec.decode(codes).abs().max() < 1e-4


def test_codes_after_silence_leave_it_silent(codec: BundledCodec) -> None:
    codes = codec.encode(torch.cat([torch.zeros(1, 1, RATE), sine(440.0)], dim=-1))
    rebuilt = codec.decode(codes)[0, 0]
    assert rebuilt[: RATE - 1920].abs().max() < 1e-4
    assert rebuilt[RATE + 1920 :].square().mean().sqrt() > 0.05


@pytest.mark.parametrize(
    "audio",
    [
        torch.full((1, 1, 4800), 0.5),
        torch.ones(1, 1, 4800),
        -torch.ones(1, 1, 1),
        torch.full((1, 1, 4800), 1e-30),
        torch.sign(torch.randn(1, 1, 4800, generator=torch.Generator().manual_seed(4))),
    ],
    ids=["dc", "full-scale", "one-sample", "denormal", "clipped-noise"],
)
def test_hostile_audio_gives_finite_sound(codec: BundledCodec, audio: Tensor) -> None:
    assert codec.decode(codec.encode(audio)).isfinite().all()


def test_more_candidates_never_code_worse(codec: BundledCodec) -> None:
    vectors = (
        codec.features(0.2 * torch.randn(4, RATE, generator=torch.Generator().manual_seed(5)))
        @ codec.components.T
    )
    errors = []
    for n_candidates in (1, 8):
        searcher = BundledCodec(replace(codec.config, n_candidates=n_candidates))
        searcher.load_state_dict(codec.state_dict())
        codes = searcher.quantise(vectors).transpose(1, 2)
        errors.append((searcher.vectors(codes) - vectors).square().sum().item())
    assert errors[1] < errors[0]


def test_wrong_shapes_are_refused(codec: BundledCodec) -> None:
    with pytest.raises(AudioError, match=r"shape \(1, 2, 960\); expected \[B, 1, N\]"):
        codec.encode(torch.zeros(1, 2, 960))
    with pytest.raises(AudioError, match=r"shape \(1, 5, 3\); expected \[B, 1 to 4, T\]"):
        codec.decode(torch.zeros(1, 5, 3, dtype=torch.int64))
    with pytest.raises(AudioError, match="outside 0 to 31"):
        codec.decode(torch.full((1, 4, 5), 32))
    with pytest.raises(ConfigError, match=r"codec\.hop is 500"):
        BundledCodec(CodecConfig(hop=500))
    with pytest.raises(AudioError, match="5 codebooks were asked for; the codec has 4"):
        codec.token_checksum(5)
    with pytest.raises(AudioError, match="5 codebooks were asked for; the codec has 4"):
        codec.encode(torch.zeros(1, 1, 960), 5)


# Files


def test_saving_and_loading_changes_nothing(codec: BundledCodec, tmp_path: Path) -> None:
    save_codec(codec, tmp_path / "codec")
    loaded = load_codec(tmp_path / "codec")
    audio = 0.3 * torch.randn(1, 1, RATE, generator=torch.Generator().manual_seed(6))
    codes = codec.encode(audio)
    assert torch.equal(loaded.encode(audio), codes)
    assert torch.equal(loaded.decode(codes), codec.decode(codes))
    assert loaded.token_checksum() == codec.token_checksum()
    assert loaded.decoder_version == codec.decoder_version


def test_the_checksum_is_of_the_tokens_alone(codec: BundledCodec) -> None:
    other = BundledCodec(replace(codec.config, griffin_lim_iterations=1))
    other.load_state_dict(codec.state_dict())
    assert other.token_checksum() == codec.token_checksum()
    assert other.decoder_version != codec.decoder_version
    other.codebooks[1, 1, 1] += 1.0
    assert other.token_checksum() != codec.token_checksum()


def damage(folder: Path, name: str, change: Any) -> None:
    """Apply a change to the bytes of a file, or remove it."""
    file = folder / name
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))


def set_field(section: str, key: str, value: object) -> Any:
    """A change of one value in `config.json`."""

    def change(data: bytes) -> bytes:
        values = json.loads(data)
        (values[section] if section else values)[key] = value
        return json.dumps(values).encode()

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", None, r"config\.json is missing"),
        ("model.safetensors", None, r"model\.safetensors is missing"),
        ("config.json", lambda data: data[:40], r"config\.json is malformed .* Get the folder again"),
        ("config.json", lambda data: b"[]", r"config\.json holds a list; .* Get the folder again"),
        ("model.safetensors", lambda data: data[:-100], r"model\.safetensors is damaged"),
        ("model.safetensors", lambda data: b"", r"model\.safetensors is damaged"),
        ("model.safetensors", lambda data: data[:-2] + b"\x11\x22", r"field 'checksum'"),
        ("config.json", set_field("", "kind", "vinyl"), "field 'kind' is 'vinyl'; expected one of bundled"),
        (
            "config.json",
            set_field("settings", "n_components", 17),
            r"Weight 'components' in .* has shape \(16, 962\); its config expects \(17, 962\)",
        ),
        ("config.json", set_field("settings", "speed", 1), "Unknown setting 'settings.speed'"),
        ("config.json", set_field("settings", "hop", "x"), "Setting 'settings.hop' is 'x'"),
    ],
)
def test_a_damaged_folder_is_named(
    codec: BundledCodec, tmp_path: Path, name: str, change: Any, message: str
) -> None:
    save_codec(codec, tmp_path)
    damage(tmp_path, name, change)
    with pytest.raises(CheckpointError, match=message):
        load_codec(tmp_path)


def test_the_bundled_codec_needs_neither_encodec_nor_transformers(codec_folder: Path) -> None:
    code = f"""
import sys, torch
from silent2music.codec import load_codec
codec = load_codec({str(codec_folder)!r})
codec.decode(codec.encode(torch.zeros(1, 1, 960)))
print([name for name in ("encodec", "transformers", "torchaudio", "librosa") if name in sys.modules])
"""
    root = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False
    )
    assert result.stdout.strip() == "[]", result.stderr


# Codecs of others


def tiny_seanet() -> SeanetCodec:
    torch.manual_seed(0)
    codec = SeanetCodec(SeanetConfig(dim=8, n_filters=2, ratios=(4, 3), n_codebooks=3, codebook_size=16))
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_()
        layer._codebook.inited.fill_(1.0)
    return codec.eval()


def test_seanet_behind_the_protocol(tmp_path: Path) -> None:
    codec = tiny_seanet()
    codes = codec.encode(sine(440.0, 0.1))
    assert codes.shape == (1, 3, 200)
    assert codes.dtype == torch.int64
    assert codec.decode(codes).shape == (1, 1, 2400)
    assert codec.frame_rate == 2000.0
    assert codec.codebook_vectors().shape == (3, 16, 8)
    save_codec(codec, tmp_path)
    loaded = load_codec(tmp_path)
    assert loaded.token_checksum() == codec.token_checksum()
    assert torch.allclose(loaded.decode(codes), codec.decode(codes), atol=1e-2)


def tiny_encodec(folder: Path, **changes: Any) -> Path:
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    settings = dict(
        target_bandwidths=[2.0],
        num_filters=2,
        hidden_size=8,
        codebook_dim=8,
        codebook_size=16,
        upsampling_ratios=[5, 4],
        num_lstm_layers=1,
    )
    model = EncodecModel(EncodecConfig(**{**settings, **changes}))
    for layer in model.quantizer.layers:
        layer.codebook.embed.normal_()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("rate", "bandwidth", "n_codebooks"), [(24_000, 24.0, 5), (32_000, 25.6, 4)])
def test_official_encodec_weights(tmp_path: Path, rate: int, bandwidth: float, n_codebooks: int) -> None:
    from transformers import EncodecModel

    folder = tiny_encodec(tmp_path / "hub", sampling_rate=rate, target_bandwidths=[bandwidth])
    codec = load_codec(folder)
    assert isinstance(codec, EncodecCodec)
    assert (codec.sample_rate, codec.frame_rate, codec.n_codebooks) == (rate, rate / 20, n_codebooks)
    audio = 0.3 * torch.randn(1, 1, 400, generator=torch.Generator().manual_seed(7))
    codes = codec.encode(audio)
    reference = EncodecModel.from_pretrained(folder).eval()
    expected = reference.encode(audio, bandwidth=bandwidth)
    assert torch.equal(codes, expected.audio_codes[0])
    with torch.no_grad():
        sound = reference.decode(expected.audio_codes, expected.audio_scales).audio_values
    assert torch.allclose(codec.decode(codes), sound, atol=1e-6)
    save_codec(codec, tmp_path / "saved")
    loaded = load_codec(tmp_path / "saved")
    assert loaded.token_checksum() == codec.token_checksum()
    assert loaded.codebook_vectors().shape == (n_codebooks, 16, 8)


def test_an_encodec_that_codes_in_normalised_chunks_is_refused(tmp_path: Path) -> None:
    folder = tiny_encodec(tmp_path, normalize=True, chunk_length_s=1.0, overlap=0.01)
    with pytest.raises(ConfigError, match="normalised chunks"):
        load_codec(folder)


def test_a_folder_that_only_claims_to_be_encodec(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "encodec"}')
    with pytest.raises(CheckpointError, match=r"does not hold the .* weights that config\.json asks for"):
        load_codec(tmp_path)


def test_a_fit_is_rounded_as_its_file(codec: BundledCodec) -> None:
    """What a fit returns is what 16 bits can hold, so that tokens do not change by saving."""
    books = codec.codebooks.numpy()
    assert np.array_equal(books, books.astype(np.float16).astype(np.float32))
