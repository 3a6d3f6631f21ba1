"""Everything that silent2music raises on purpose.

A message is one sentence that says what was got, what was expected and what to do. The command line
catches `S2MError` once, prints the sentence and exits with 1; any other exception is a fault of ours and
keeps its traceback.
"""


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
