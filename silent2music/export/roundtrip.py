"""Encodes a sound to a codec's tokens and decodes them again."""

from __future__ import annotations

from pathlib import Path

from silent2music import audio
from silent2music.audio import Waveform


def roundtrip(source: Path, target: Path, codec_folder: Path, force: bool = False) -> float:
    """Encode a file to a codec's tokens, decode them and write the sound, mixed to one channel.

    Level and length are kept, so that the two files can be compared by ear and by figures.

    Args:
        source: any readable audio.
        target: `.wav`, `.flac` or `.ogg`.
        codec_folder: the codec.
        force: replace `target` if it exists.

    Returns:
        The bit rate of the tokens in kbit/s.

    Raises:
        AudioError: if `source` cannot be read or `target` not be written.
        CheckpointError: if the codec cannot be loaded.
    """
    import numpy as np
    import torch

    from silent2music.codec import load_codec

    sound = audio.read(source, mono=True)
    codec = load_codec(codec_folder)
    sound = sound.resampled(codec.sample_rate)
    with torch.inference_mode():
        codes = codec.encode(torch.from_numpy(sound.samples)[None])
        back = codec.decode(codes)[0, :, : sound.n_samples].numpy()
    audio.write(target, Waveform(np.clip(back, -1.0, 1.0), codec.sample_rate), force)
    return codec.n_codebooks * codec.frame_rate * float(np.log2(codec.codebook_size)) / 1000.0
