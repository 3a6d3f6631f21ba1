"""A torchaudio that cannot load its extension is made harmless; any other is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import silent2music

REPOSITORY = Path(silent2music.__file__).parents[1]

UTILS = """
def _load_lib(lib):
    try:
        raise OSError({reason!r})
    except OSError as error:
        raise OSError("Could not load this library: " + lib) from error
"""

EXTENSION = """
from .utils import _load_lib
AVAILABLE = _load_lib("_torchaudio")
"""


def fake_torchaudio(folder: Path, utils: str) -> None:
    """A package laid out as torchaudio is."""
    extension = folder / "torchaudio" / "_extension"
    extension.mkdir(parents=True)
    (extension.parent / "__init__.py").write_text("from . import _extension\nMARK = 'fake'\n")
    (extension / "__init__.py").write_text(EXTENSION)
    (extension / "utils.py").write_text(utils)


def run(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """Python in a fresh process, the given folders first on its path."""
    path = os.pathsep.join(str(p) for p in (*folders, REPOSITORY))
    code = f"from silent2music._torchaudio import ensure_torchaudio\n{code}"
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def test_a_healthy_torchaudio_is_left_alone(tmp_path: Path) -> None:
    fake_torchaudio(tmp_path, "def _load_lib(lib):\n    return 'loaded ' + lib\n")
    code = """
left_out = ensure_torchaudio()
import torchaudio
from torchaudio._extension import utils
print(left_out, torchaudio.MARK, torchaudio._extension.AVAILABLE, utils._load_lib("x"))
"""
    assert run(code, tmp_path).stdout.strip() == "False fake loaded _torchaudio loaded x"


def test_an_extension_linked_to_absent_cuda_is_left_out(tmp_path: Path) -> None:
    fake_torchaudio(tmp_path, UTILS.format(reason="libc10_cuda.so: cannot open shared object file"))
    code = """
print(ensure_torchaudio(), ensure_torchaudio())
import torchaudio
print(torchaudio.MARK, torchaudio._extension.AVAILABLE)
"""
    assert run(code, tmp_path).stdout.split() == ["True", "False", "fake", "False"]


def test_any_other_fault_is_passed_on(tmp_path: Path) -> None:
    fake_torchaudio(tmp_path, UTILS.format(reason="libsox.so: cannot open shared object file"))
    result = run("ensure_torchaudio()", tmp_path)
    assert result.returncode == 1
    assert "OSError: Could not load this library: _torchaudio" in result.stderr


def test_the_installed_torchaudio_works_afterwards() -> None:
    code = """
ensure_torchaudio()
import torch, torchaudio
audio = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
got = torchaudio.transforms.Spectrogram(n_fft=400, hop_length=100, power=1.0)(audio)
window = torch.hann_window(400)
wanted = torch.stft(audio, 400, 100, window=window, return_complex=True).abs()
print(torch.allclose(got, wanted, atol=1e-5))
from encodec.msstftd import MultiScaleSTFTDiscriminator
print(len(MultiScaleSTFTDiscriminator(filters=2)(torch.randn(1, 1, 4096))[0]))
"""
    result = run(code)
    assert result.stdout.split() == ["True", "3"], result.stderr
