"""Metrics as pure functions of arrays, in the shape of mir_eval.

Every metric takes `reference_*` (the room, or real music) before `estimated_*` (the music that was made), with
the unit in the name, checks its input with a `validate_*` of its kind, scores identity best, and warns and scores
worst on empty input. `following` asks whether the music follows the room, `quality` how it sounds, `statistics`
how sure one can be.
"""

from silent2music.evaluation.metrics.following import (
    boundary_scores,
    energy_correlation,
    loris_beat_scores,
    onset_scores,
    ranks,
    retrieval_scores,
    tempo_agreement,
    validate_curves,
    validate_similarities,
    validate_tempi,
    validate_times,
)
from silent2music.evaluation.metrics.quality import (
    beat_strength,
    clipping_share,
    dc_offset_dbfs,
    frechet_distance,
    kernel_distance,
    key_clarity,
    repetition,
    silent_share,
    spectral_flatness,
    validate_chroma,
    validate_features,
    validate_samples,
)
from silent2music.evaluation.metrics.statistics import (
    Interval,
    bootstrap_mean,
    mean_difference,
    paired_difference,
    validate_items,
)

__all__ = [
    "Interval",
    "beat_strength",
    "bootstrap_mean",
    "boundary_scores",
    "clipping_share",
    "dc_offset_dbfs",
    "energy_correlation",
    "frechet_distance",
    "kernel_distance",
    "key_clarity",
    "loris_beat_scores",
    "mean_difference",
    "onset_scores",
    "paired_difference",
    "ranks",
    "repetition",
    "retrieval_scores",
    "silent_share",
    "spectral_flatness",
    "tempo_agreement",
    "validate_chroma",
    "validate_curves",
    "validate_features",
    "validate_items",
    "validate_samples",
    "validate_similarities",
    "validate_tempi",
    "validate_times",
]
