"""Makes a CUDA-linked torchaudio harmless beside a CPU torch.

PyPI's torchaudio wheels for Linux link their compiled extension to the CUDA libraries of PyPI's torch. Beside
a CPU build of torch those libraries do not exist, and `import torchaudio` fails, although the parts that
`encodec` needs (spectrogram, resampling) are plain Python. torchaudio knows how to live without its extension;
it only has to be told that there is none.
"""

from __future__ import annotations

import importlib
import sys

_CUDA_LIBRARIES = ("libtorch_cuda", "libc10_cuda", "libcudart")


def ensure_torchaudio() -> bool:
    """Import torchaudio, treating its extension as absent if that links to CUDA libraries that are not there.

    Where torchaudio imports well, nothing is changed.

    Returns:
        Whether the extension had to be left out.

    Raises:
        ImportError, OSError: whatever else keeps torchaudio from being imported, unchanged.
    """
    try:
        importlib.import_module("torchaudio")
        return False
    except OSError as error:
        # The failed import leaves this helper module loaded, and the second import takes it from there.
        utils = sys.modules.get("torchaudio._extension.utils")
        if utils is None or not _misses_cuda(error):
            raise
    utils._load_lib = lambda lib: False  # type: ignore[attr-defined]
    importlib.import_module("torchaudio")
    return True


def _misses_cuda(error: BaseException | None) -> bool:
    """Whether a CUDA library is named anywhere in the chain of causes."""
    while error is not None:
        if any(name in str(error) for name in _CUDA_LIBRARIES):
            return True
        error = error.__cause__ or error.__context__
    return False
