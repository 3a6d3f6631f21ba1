"""Small video clips, drawn and coded here: scenes with hard cuts, pans and flashes, and sound of any layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 160, 90


def make_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: Fraction | int = 25,
    sound: np.ndarray | None = None,
    layout: str = "mono",
    lengths: Sequence[int] | None = None,
    timecode: str = "",
    rotation: int = 0,
    sound_rate: int = 48_000,
) -> Path:
    """Write a clip of H.264 with B frames, and of PCM in MOV and AAC elsewhere.

    Args:
        path: of the file.
        frames: `[H, W, 3]` each.
        rate: frames a second.
        sound: `[C, N]` at `sound_rate`, or none.
        layout: of its channels.
        lengths: of each frame in units of 1 / rate, for a clip of variable rate.
        timecode: of the first frame.
        rotation: in degrees, for the player to do.
        sound_rate: in Hz.
    """
    import av

    with av.open(str(path), "w") as file:
        picture = file.add_stream(
            "libx264", rate=rate, options={"preset": "ultrafast", "bf": "2", "crf": "20"}
        )
        picture.pix_fmt, picture.thread_count = "yuv420p", 1
        file.metadata["title"] = "Scene 4"
        if timecode:
            picture.metadata["timecode"] = timecode
        heard = None
        if sound is not None:
            codec = "pcm_s16le" if path.suffix == ".mov" else "aac"
            heard = file.add_stream(codec, rate=sound_rate, layout=layout)
        at = 0
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if number == 0:
                picture.height, picture.width = pixels.shape[:2]
                picture.time_base = picture.codec_context.time_base = 1 / Fraction(rate)
                if rotation:
                    picture.set_display_rotation(rotation)
            frame.pts, frame.time_base = at, 1 / Fraction(rate)
            frame.duration = 1 if lengths is None else lengths[number]
            at += frame.duration
            file.mux(picture.encode(frame))
        file.mux(picture.encode(None))
        if heard is not None and sound is not None:
            form = "fltp" if codec == "aac" else "s16"
            block = sound.astype(np.float32)
            if form == "s16":
                block = (block.T * 32767).astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format=form, layout=layout)
            frame.sample_rate, frame.pts = sound_rate, 0
            file.mux(heard.encode(frame))
            file.mux(heard.encode(None))
    return path


def scene(rng: np.random.Generator, width: int = WIDTH) -> np.ndarray:
    """A still picture `[HEIGHT, width, 3]`: coarse shapes and fine ones in the colours of one place."""
    colour = rng.uniform(30, 225, 3)
    still = np.zeros((HEIGHT, width, 3))
    for cell, depth in ((30, 60.0), (10, 25.0), (5, 10.0)):
        grid = rng.normal(0, depth, (-(-HEIGHT // cell), -(-width // cell), 1)) + rng.normal(0, depth / 4, 3)
        still += np.kron(grid, np.ones((cell, cell, 1)))[:HEIGHT, :width]
    return np.clip(still + colour, 0, 255)


def film(n_cuts: int, rng: np.random.Generator, n_least: int = 12) -> tuple[list[np.ndarray], list[int], int]:
    """Frames of a film, the first frame of each scene but the first, and how many pans and flashes are in it.

    A fifth of the scenes are pans, a fifth have a flash of one to three frames, the others a thing that moves; all
    have the noise of a camera.
    """
    frames: list[np.ndarray] = []
    cuts, n_distractors = [], 0
    for number in range(n_cuts + 1):
        n_frames = int(rng.integers(n_least, n_least + 8))
        kind = ("pan", "flash", "moving", "moving", "still")[number % 5]
        wide = scene(rng, WIDTH + 8 * n_frames)
        flash = int(rng.integers(4, n_frames - 5))
        cuts.append(len(frames))
        n_distractors += kind in ("pan", "flash")
        for i in range(n_frames):
            left = 5 * i if kind == "pan" else 0
            pixels = wide[:, left : left + WIDTH].copy()
            if kind == "flash" and flash <= i < flash + 1 + number % 3:
                pixels = 0.2 * pixels + 0.8 * 255.0
            if kind == "moving":
                pixels[20:60, 4 * i : 4 * i + 30] = 255.0 - pixels[20:60, 4 * i : 4 * i + 30]
            frames.append(np.clip(pixels + rng.normal(0, 2.0, pixels.shape), 0, 255).astype(np.uint8))
    return frames, cuts[1:], n_distractors
