"""What a long training run needs, on paper: tokens, memory, hours by card and size of the data.

    python recipes/base/scale.py --weights 300e6 --hours 1000
    python recipes/base/scale.py --weights 300e3 --hours 1 --measured runs/small/log.jsonl --batch 8 --crop 16

A step of a transformer costs 6 operations for each weight and token, forward and backward (Kaplan et al., "Scaling laws
for neural language models", 2020). The second line compares this with a log that `s2m train` wrote.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

FRAME_RATE, N_CODEBOOKS = 25.0, 4

CARDS = {"RTX 4090": 165.0, "A100": 312.0, "H100": 989.0}
"""Peak of dense bf16 products in 10^12 operations a second, as the makers state it."""

UTILISATION = 0.35
"""Share of the peak that training reaches; 0.3 to 0.45 are usual for models of this size."""

BYTES_A_WEIGHT = 4 + 4 + 4 + 8
"""Weights, averaged weights and gradients in 32 bits, and the two moments of AdamW."""


def needs(weights: float, hours: float, epochs: float) -> dict[str, float]:
    """Codec frames, operations, bytes of weights in training, and bytes of tokens on disk."""
    frames = hours * 3600 * FRAME_RATE
    features = FRAME_RATE * 3600 * hours * 68 * 2  # room features in 16 bits
    return {
        "frames": frames,
        "tokens": frames * N_CODEBOOKS,
        "operations": 6 * weights * frames * epochs,
        "training_gb": weights * BYTES_A_WEIGHT / 1e9,
        "prepared_gb": (frames * N_CODEBOOKS * 2 + features) / 1e9,
        "flac_gb": hours * 3600 * 24_000 * 3 * 2 * 0.55 / 1e9,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=float, default=300e6)
    parser.add_argument("--hours", type=float, default=1000.0)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--measured", type=Path, help="log.jsonl of a run of such a model")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=float, default=16.0)
    given = parser.parse_args()
    found = needs(given.weights, given.hours, given.epochs)
    print(
        f"{found['frames'] / 1e6:.1f} M frames, {found['tokens'] / 1e6:.1f} M tokens, {given.epochs:g} times"
    )
    print(f"{found['operations']:.3g} operations; weights in training {found['training_gb']:.3g} GB")
    print(f"prepared {found['prepared_gb']:.3g} GB, sound {found['flac_gb']:.3g} GB")
    for name, tera in CARDS.items():
        print(f"{name}: {found['operations'] / (tera * 1e12 * UTILISATION) / 3600:.3g} hours")
    if given.measured:
        lines = [json.loads(line) for line in given.measured.read_text(encoding="utf-8").splitlines()]
        timed = [line for line in lines if "rate" in line]
        seconds = (timed[-1]["time"] - timed[0]["time"]) / (timed[-1]["step"] - timed[0]["step"])
        step = 6 * given.weights * given.batch * given.crop * FRAME_RATE
        print(
            f"a step takes {seconds:.2f} s and {step:.3g} operations: {step / seconds / 1e9:.2f} G a second"
        )
