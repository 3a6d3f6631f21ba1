"""silent2music: instrumental music that belongs to a room, from a near-silent recording of it.

Axes are named the same everywhere: B batch, C channels, N samples, M mel bands, F feature frames,
S conditioning steps, G global tokens, D width, K codebooks, T codec frames, V codebook size.

Example:
    ```python
    import silent2music as s2m

    model = s2m.load()
    music = model.generate("room.wav", seed=7)
    s2m.write("music.wav", s2m.normalised(music, lufs=-18.0, true_peak=-1.0))
    print(s2m.follow_score("room.wav", music))
    ```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silent2music.acoustics import AcousticProfile as AcousticProfile
    from silent2music.acoustics import analyze as analyze
    from silent2music.audio import Waveform as Waveform
    from silent2music.audio import normalised as normalised
    from silent2music.audio import read as read
    from silent2music.audio import write as write
    from silent2music.config import SamplingConfig as SamplingConfig
    from silent2music.errors import S2MError as S2MError
    from silent2music.evaluation.following import follow_score as follow_score
    from silent2music.model import Piece as Piece
    from silent2music.model import Silent2Music as Silent2Music
    from silent2music.model import load as load

__version__ = "0.2.0"

_HOMES = {
    "AcousticProfile": "acoustics",
    "analyze": "acoustics",
    "Waveform": "audio",
    "normalised": "audio",
    "read": "audio",
    "write": "audio",
    "SamplingConfig": "config",
    "S2MError": "errors",
    "follow_score": "evaluation.following",
    "Piece": "model",
    "Silent2Music": "model",
    "load": "model",
}
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    """Public names are loaded on first use: the command line must not pay for torch to print its help."""
    if name in _HOMES:
        return getattr(import_module(f"silent2music.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'silent2music' has no attribute '{name}'")


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return __all__
