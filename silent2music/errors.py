"""Everything that silent2music raises on purpose.

A message is one sentence that says what was got, what was expected and what to do. The command line
catches `S2MError` once, prints the sentence and exits with 1; any other exception is a fault of ours and
keeps its traceback.
"""

from importlib import import_module
from typing import Any


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


def require(module: str, extra: str) -> Any:
    """Import a module that only an extra of this package brings.

    Args:
        module: its name, which may be that of a submodule.
        extra: the extra in whose list it is.

    Raises:
        S2MError: if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise S2MError(
            f"{name} is not installed, which this needs; give `pip install 'silent2music[{extra}]'`."
        ) from error
