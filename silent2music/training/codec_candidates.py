"""Codecs that could have been: closed forms by other settings, fitted alike, and how well their tokens are foretold."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from silent2music.audio import atomic_path
from silent2music.bundled_codec import BundledCodec
from silent2music.codec import load_codec, save_codec
from silent2music.config import CodecConfig, DecoderConfig, from_dict, read_values, to_dict
from silent2music.decoder import Conditioning, Decoder
from silent2music.errors import ConfigError
from silent2music.training.codec import fit_codec
from silent2music.training.excerpts import CodedMusic, code_music, digest_of

FIT_FILE = "fit.json"
TOKEN_FILE = "tokens.json"

CODED_MINUTES = {"train": 40.0, "validation": 8.0}
"""Of music whose tokens a token model learns, and is asked about."""

BATCH_SIZE = 8
LEARNING_RATE = 2e-3

SIZE = DecoderConfig(dim=192, n_layers=3, n_heads=3, attention_window=100, dropout=0.0)
"""Of the token model, as small as it can be and learn something in minutes."""


def read_candidates(file: Path) -> dict[str, CodecConfig]:
    """Settings of codecs by name, from a TOML file with a table for each that says what differs from the defaults.

    Raises:
        ConfigError: if the file cannot be read, a setting does not exist, or a codec would be more than a closed form.
    """
    found = {}
    for name, table in read_values(file).items():
        if not isinstance(table, Mapping):
            raise ConfigError(f"{file}: '{name}' is {table!r}; expected a table of codec settings.")
        config = from_dict(CodecConfig, table, name)
        if config.gain_bands or config.encoder_layers or config.decoder_layers:
            raise ConfigError(
                f"{file}: '{name}' has gains or layers; expected a closed form, without what is learned."
            )
        found[name] = config
    return found


def fit_candidates(
    candidates: Mapping[str, CodecConfig],
    files: Sequence[Path],
    out: Path,
    hours: float,
    seed: int,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, BundledCodec]:
    """Fit codecs to the same music, each in a folder of its name; one that is there already, fitted alike, is kept.

    Args:
        candidates: settings by name.
        files: music.
        out: where the folders are.
        hours: of music, at most.
        seed: of all fits.
        progress: called with the name and what is done of its fit.
    """
    fitted = {}
    for name, config in candidates.items():
        folder = out / folder_of(name)
        key = {"settings": to_dict(config), "hours": hours, "seed": seed, "files": digest_of(files)}
        codec: Any = load_codec(folder) if _read(folder / FIT_FILE) == key else None
        if codec is None:
            report = (lambda stage, done, name=name: progress(f"{name}: {stage}", done)) if progress else None
            codec = fit_codec(files, config, seed, hours, report)
            save_codec(codec, folder)
            _write(folder / FIT_FILE, key)
        fitted[name] = codec
    return fitted


def folder_of(name: str) -> str:
    """Where a candidate of a name lies."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name)


def _read(file: Path) -> Any:
    """What a JSON file holds, or nothing."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(file: Path, values: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file, force=True) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def token_bits(
    codec: BundledCodec, files: Mapping[str, Sequence[Path]], folder: Path, n_steps: int, seed: int
) -> dict[str, float]:
    """How well tokens are foretold by a small model that learned from so much music: what they cost it on other music.

    A transformer of `SIZE` on the codec's vectors, without a room.

    Args:
        codec: whose tokens.
        files: music by `train` and `validation`.
        folder: where coded music is kept, and the result, which is not made anew.
        n_steps: of training, on `BATCH_SIZE` crops each.
        seed: of weights and of which excerpts are heard when.

    Returns:
        `bits_per_second` of the other music and `bits_per_token`.
    """
    hashes = {name: digest_of(those) for name, those in files.items()}
    key = {"checksum": codec.checksum, "steps": n_steps, "seed": seed, **hashes}
    known = _read(folder / TOKEN_FILE) or {}
    if {name: known.get(name) for name in key} == key:
        return {name: known[name] for name in ("bits_per_second", "bits_per_token")}
    music = {
        name: code_music(codec, those, CODED_MINUTES[name], seed, folder / name)
        for name, those in files.items()
    }
    torch.manual_seed(seed)
    n_codebooks, size, width = codec.codebook_vectors().shape
    config = replace(SIZE, n_codebooks=n_codebooks, codebook_size=size, codebook_dim=width)
    config = replace(config, attention_window=round(SIZE.attention_window * codec.frame_rate / 25.0))
    model = Decoder(config, codec.codebook_vectors())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(n_steps):
        generator = torch.Generator().manual_seed(seed * 100_003 + step)
        rate = min(1.0, (step + 1) / 20) * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * step / n_steps)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        rows = torch.randint(len(music["train"].codes), (BATCH_SIZE,), generator=generator).tolist()
        loss = _loss(model, _codes(music["train"], rows))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    found = music["validation"]
    with torch.no_grad():
        rows = list(range(len(found.codes)))
        parts = [rows[i : i + BATCH_SIZE] for i in range(0, len(rows), BATCH_SIZE)]
        losses = [float(_loss(model, _codes(found, part))) * len(part) for part in parts]
    bits = sum(losses) / len(found.codes) / math.log(2.0)
    result = {"bits_per_second": bits * n_codebooks * codec.frame_rate, "bits_per_token": bits}
    _write(folder / TOKEN_FILE, key | result)
    return result


def _codes(music: CodedMusic, rows: Sequence[int]) -> Tensor:
    return torch.from_numpy(music.codes[rows].astype("int64"))


def _loss(model: Decoder, codes: Tensor) -> Tensor:
    """Nats a token of codes `[B, K, T]` without a room, a mean."""
    grid = model.pattern.apply(codes)
    width = model.config.dim
    nothing = Conditioning(
        torch.zeros(len(codes), codes.shape[2], width),
        torch.ones(len(codes), codes.shape[2], dtype=torch.bool),
        torch.zeros(len(codes), 0, width),
    )
    with torch.autocast(codes.device.type, torch.bfloat16):
        logits = model(grid, nothing)
    return functional.cross_entropy(
        logits.flatten(0, 2).float(), grid.flatten(), ignore_index=model.pattern.filler
    )


def tabulate_bits(bits: Mapping[str, Mapping[str, float]]) -> str:
    """What `token_bits` found, by name, as a table in Markdown."""
    if not bits:
        return ""
    lines = ["", "Tokens foretold by a small model, on held-out music:", ""]
    lines += ["| codec | bits a second | bits a token |", "|---|---|---|"]
    lines += [
        f"| {name} | {found['bits_per_second']:.0f} | {found['bits_per_token']:.2f} |"
        for name, found in bits.items()
    ]
    return "\n".join(lines) + "\n"
