"""Encodes a sound to a codec's tokens and decodes them again."""

from __future__ import annotations

from pathlib import Path

from silent2music import audio
from silent2music.audio import Waveform
from silent2music.export import provenance
from silent2music.files import atomic_path


def roundtrip(source: Path, target: Path, codec_folder: Path, force: bool = False) -> float:
    """Encode a file to a codec's tokens, decode them and write the sound, mixed to one channel.

    Level and length are kept, so that the two files can be compared by ear and by figures.

    Args:
        source: any readable audio.
        target: `.wav`, `.flac`, `.ogg`, `.mp3` or `.m4a`; its tags say what it is.
        force: replace `target` if it was made before.

    Returns:
        The bit rate of the tokens in kbit/s.

    Raises:
        AudioError: if `source` cannot be read or `target` not be written.
        CheckpointError: if the codec cannot be loaded.
    """
    import numpy as np
    import torch

    from silent2music.codec import load_codec

    provenance.check_replaceable(target, force, [source])
    sound = audio.read(source, mono=True)
    codec = load_codec(codec_folder)
    sound = sound.resampled(codec.sample_rate)
    with torch.inference_mode():
        codes = codec.encode(torch.from_numpy(sound.samples)[None])
        back = codec.decode(codes)[0, :, : sound.n_samples].numpy()
    audio.check_writable(target, codec.sample_rate, 1, sound.seconds)
    with atomic_path(target, force) as temporary:
        audio.write(temporary, Waveform(np.clip(back, -1.0, 1.0), codec.sample_rate), force=True)
        made_of = {"file": source.name, "sha256": provenance.sha256(source)}
        codec_of = {"codec_checksum": codec.token_checksum(), "decoder": codec.decoder_version}
        record = {"input": made_of, "codec": codec_of, "versions": provenance.versions()}
        provenance.write_tags(temporary, record)
    return codec.n_codebooks * codec.frame_rate * float(np.log2(codec.codebook_size)) / 1000.0
