"""Everything that silent2music raises on purpose.

A message is one sentence that says what was got, what was expected and what to do. The command line
catches `S2MError` once, prints the sentence and exits with 1; any other exception is a fault of ours and
keeps its traceback.
"""

from __future__ import annotations

import reprlib
from importlib import import_module
from types import ModuleType


class S2MError(Exception):
    """Base of all errors whose message is meant for the user."""


class AudioError(S2MError):
    """Audio that cannot be read, written or used."""


class DataError(S2MError):
    """Pairs, scores, scenes or shards that do not fit their contract."""


class ConfigError(S2MError):
    """A value, a key or a combination of settings that is not possible."""


class CheckpointError(S2MError):
    """A model or codec folder that is missing, incomplete or does not fit the code."""


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def shown(value: object) -> str:
    """A value as it stands in a sentence: printable, on one line, and cut where it is long.

    Example:
        >>> print(shown("a\\nb"), shown(10**100))
        'a\\nb' 100000000000000000...0000000000000000000
    """
    return _short.repr(value)


def require(module: str, extra: str | None = None) -> ModuleType:
    """Import an optional module, or say how to install it.

    Args:
        module: Dotted name, as in `matplotlib.figure`.
        extra: The extra of silent2music that brings it (`plot`, `video`, `train`, `eval`, `hub`), or None for a
            package that a full installation has and a minimal one (requirements-minimal.txt) leaves out.

    Raises:
        S2MError: The module, or one that it imports itself, is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        missing = (error.name or module).partition(".")[0]
        wanted = package if missing == package else f"{package} (which needs {missing})"
        source = f"'silent2music[{extra}]'" if extra else package
        raise S2MError(f"{wanted} is not installed; install it by: pip install {source}") from None
