"""Fit codecs by other settings to the same music and set them side by side; README.md has what was found.

    python recipes/codec/candidates.py recipes/codec/candidates.toml MUSIC... --real RECORDINGS --out candidates

`MUSIC` is files, folders of them, or folders of pairs. Prints and writes to `bench.md` how near each closed form comes
to music that it was not fitted to, and how many bits a second its tokens cost a small token model. Codecs given by
--codec are compared as they are.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from silent2music.bundled_codec import BundledCodec
from silent2music.codec import save_codec
from silent2music.config import CodecConfig, DecoderConfig, from_dict, read_values
from silent2music.data.pairs import music_files
from silent2music.decoder import Conditioning, Decoder
from silent2music.evaluation.codec_bench import BenchEntry, bench_music, parse_entry, run_bench
from silent2music.training.codec import fit_codec
from silent2music.training.excerpts import CodedMusic, code_music
from silent2music.training.running import learning_rate

TEST_SHARE = 0.2
"""Of the music whose tokens the token model learns, it is asked about so much that it has not seen."""

BATCH_SIZE = 8

SIZE = DecoderConfig(dim=192, n_layers=3, n_heads=3, attention_window=100, dropout=0.0)
"""Of the token model, as small as it can be and learn something in minutes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", type=Path, help="TOML with a table of codec settings for each candidate")
    parser.add_argument("music", type=Path, nargs="+", help="music to fit to")
    parser.add_argument("--families", type=Path, help="held-out music of `s2m codec music`")
    parser.add_argument("--pairs", type=Path, help="pair folder, for its validation music")
    parser.add_argument("--real", type=Path, help="folder of real recordings")
    parser.add_argument("--out", type=Path, required=True, help="folder of the codecs and the tables")
    parser.add_argument(
        "--codec", metavar="NAME=FOLDER", action="append", default=[], help="a codec that is made"
    )
    parser.add_argument("--hours", type=float, default=0.5, help="of music that each is fitted to")
    parser.add_argument("--limit", type=int, default=6, help="files of each held-out group at most")
    parser.add_argument("--steps", type=int, default=300, help="of training each token model; 0 for none")
    parser.add_argument("--minutes", type=float, default=40.0, help="of music that each token model learns")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    configs = {
        name: from_dict(CodecConfig, table, name) for name, table in read_values(given.settings).items()
    }
    train = [file for path in given.music for file in music_files(path)]
    test = bench_music(given.families, given.pairs, given.real, given.limit)
    entries, folders = [parse_entry(codec) for codec in given.codec], {}
    for entry in entries:
        folders[entry.name] = given.out / _file_name(entry.name)
    for name, config in configs.items():
        codec = fit_codec(train, config, given.seed, given.hours)
        folders[name] = given.out / _file_name(name)
        save_codec(codec, folders[name])
        entries.append(BenchEntry(name, codec, codec.n_codebooks))
    text = run_bench(entries, test, given.out, with_speed=False)
    if given.steps:
        text += "\nBits a second of the tokens of held-out music, by a small token model:\n\n"
        text += "| codec | bits a second | bits a token |\n|---|---|---|\n"
        for entry in entries:
            codec, folder = entry.codec, folders[entry.name]
            learned = code_music(codec, train, given.minutes, given.seed, folder / "train")
            others = [file for files in test.values() for file in files]
            asked = code_music(codec, others, given.minutes * TEST_SHARE, given.seed, folder / "test")
            bits = token_bits(codec, learned, asked, given.steps, given.seed)
            per_second = bits * codec.n_codebooks * codec.frame_rate
            text += f"| {entry.name} | {per_second:.0f} | {bits:.2f} |\n"
    (given.out / "bench.md").write_text(text, encoding="utf-8")
    print(text)


def _file_name(name: str) -> str:
    """Of a candidate's folder."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name)


def token_bits(codec: BundledCodec, learned: CodedMusic, asked: CodedMusic, n_steps: int, seed: int) -> float:
    """Bits a token of held-out music under a small transformer on the codec's vectors, without a room.

    Args:
        codec: whose tokens.
        learned: music that it is trained on.
        asked: music that it has not seen.
        n_steps: of training, on `BATCH_SIZE` excerpts each.
        seed: of the weights and of which excerpts are heard when.
    """
    torch.manual_seed(seed)
    n_codebooks, size, width = codec.codebook_vectors().shape
    window = round(SIZE.attention_window * codec.frame_rate / 25.0)
    config = replace(
        SIZE, n_codebooks=n_codebooks, codebook_size=size, codebook_dim=width, attention_window=window
    )
    model = Decoder(config, codec.codebook_vectors())
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, 2e-3, 20, n_steps, 0.05)
        rows = torch.randint(len(learned.codes), (BATCH_SIZE,)).tolist()
        optimizer.zero_grad()
        token_loss(model, learned, rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        parts = torch.arange(len(asked.codes)).split(BATCH_SIZE)
        total = sum(float(token_loss(model, asked, part.tolist())) * len(part) for part in parts)
    return total / len(asked.codes) / math.log(2.0)


def token_loss(model: Decoder, music: CodedMusic, rows: Sequence[int]) -> Tensor:
    """Nats a token of some excerpts, a mean."""
    codes, _ = music.crops(rows, 0, music.codes.shape[2])
    grid = model.pattern.apply(codes)
    n_rows, n_frames, width = len(codes), codes.shape[2], model.config.dim
    nothing = Conditioning(
        torch.zeros(n_rows, n_frames, width),
        torch.ones(n_rows, n_frames, dtype=torch.bool),
        torch.zeros(n_rows, 0, width),
    )
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(grid, nothing)
    return functional.cross_entropy(
        logits.flatten(0, 2).float(), grid.flatten(), ignore_index=model.pattern.filler
    )


if __name__ == "__main__":
    main()
