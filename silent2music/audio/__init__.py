"""Sound: samples with their rate, files, loudness.

Nothing here needs torch, so that commands which only look at audio start at once.
"""

from __future__ import annotations

from silent2music.audio.finding import READABLE_SUFFIXES, VIDEO_SUFFIXES, Found, find_audio, no_audio, search
from silent2music.audio.formats import (
    LOSSY_SUFFIXES,
    MIN_SECONDS,
    SUFFIX_SUBTYPES,
    WHOLE_SECONDS,
    check_writable,
    compare_channels,
    ogg_coded,
    open_recording,
    read,
    read_blocks,
    write,
    write_blocks,
)
from silent2music.audio.loudness import (
    HOP_SECONDS,
    LoudnessMeter,
    gate,
    gated,
    integrated_lufs,
    limited,
    limiter_gain,
    loudness_blocks,
    normalised,
    oversampled_peaks,
    peak_dbtp,
    true_peak_dbtp,
)
from silent2music.audio.waveform import (
    FLOOR_DBFS,
    Recorded,
    Recording,
    Waveform,
    channels_of,
    db_to_gain,
    level_curve_dbfs,
    rms_dbfs,
    to_dbfs,
)

__all__ = [
    "FLOOR_DBFS",
    "HOP_SECONDS",
    "LOSSY_SUFFIXES",
    "MIN_SECONDS",
    "READABLE_SUFFIXES",
    "SUFFIX_SUBTYPES",
    "VIDEO_SUFFIXES",
    "WHOLE_SECONDS",
    "Found",
    "LoudnessMeter",
    "Recorded",
    "Recording",
    "Waveform",
    "channels_of",
    "check_writable",
    "compare_channels",
    "db_to_gain",
    "find_audio",
    "gate",
    "gated",
    "integrated_lufs",
    "level_curve_dbfs",
    "limited",
    "limiter_gain",
    "loudness_blocks",
    "no_audio",
    "normalised",
    "ogg_coded",
    "open_recording",
    "oversampled_peaks",
    "peak_dbtp",
    "read",
    "read_blocks",
    "rms_dbfs",
    "search",
    "to_dbfs",
    "true_peak_dbtp",
    "write",
    "write_blocks",
]
