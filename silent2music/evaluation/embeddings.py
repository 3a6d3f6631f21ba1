"""Distances on learned embeddings such as CLAP, from weights that the user has; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from silent2music.arrays import DoubleArray
from silent2music.audio import Waveform
from silent2music.errors import CheckpointError
from silent2music.evaluation.quality import evaluate_distances
from silent2music.evaluation.stages import Stages

WINDOW_SECONDS = 5.0


@lru_cache(maxsize=1)
def load_embedder(folder: str) -> tuple[Any, Any]:
    """Feature extractor and audio model of a folder in the format of transformers.

    Raises:
        CheckpointError: if the folder holds none, or one whose weights are no safetensors.
    """
    from silent2music._torchaudio import ensure_torchaudio

    # transformers imports torchaudio where it is installed.
    ensure_torchaudio()
    from transformers import AutoFeatureExtractor, AutoModel

    if not Path(folder).is_dir():
        raise CheckpointError(
            f"{folder} is no folder; expected an audio model of transformers, such as CLAP."
        )
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} holds no audio model of transformers with safetensors weights ({error})."
        ) from error
    return extractor, model.eval()


def embedding_rows(folder: str, music: Waveform) -> DoubleArray:
    """`[n, D]` embeddings of whole windows of `WINDOW_SECONDS`, one if the music is shorter.

    CLAP's audio embedding, or of another model the mean of the last hidden states.
    """
    import torch

    extractor, model = load_embedder(folder)
    samples = music.mono().resampled(extractor.sampling_rate).samples[0]
    size = round(WINDOW_SECONDS * extractor.sampling_rate)
    rows = []
    for i in range(max(1, samples.size // size)):
        window = samples[i * size : (i + 1) * size]
        inputs = extractor(window, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        with torch.inference_mode():
            if hasattr(model, "get_audio_features"):
                found = model.get_audio_features(**inputs)
                found = getattr(found, "pooler_output", found)
            else:
                found = model(**inputs).last_hidden_state.mean(dim=1)
        rows.append(found[0].double().numpy())
    return np.stack(rows)


def embedding_distances(
    folder: Path | str, sounds: Mapping[str, Sequence[Waveform]], stages: Stages
) -> dict[str, Any]:
    """Fréchet and kernel distance of each system's pieces of odd index to real music of even index, on embeddings.

    Args:
        sounds: music by system, `real` among them.
    """
    folder = str(folder)
    _, model = load_embedder(folder)
    rows = partial(embedding_rows, folder)
    reference = np.concatenate(stages.run("embeddings of real music", rows, sounds["real"][::2]))
    table = {}
    for name, music in sounds.items():
        found = np.concatenate(stages.run(f"embeddings of {name}", rows, music[1::2]))
        if distances := evaluate_distances(reference, found):
            table[name] = distances
    return {"model": str(model.config.model_type), "distances": table}
