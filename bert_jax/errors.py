"""Errors that a user can cause and mend: a command prints one in a single line and exits with 2."""


class BertJaxError(Exception):
    """Base of everything that bert_jax raises about its inputs."""


class ConfigError(BertJaxError, ValueError):
    """An experiment, an override or a combination of fields that cannot be run."""


class DataError(BertJaxError, ValueError):
    """A corpus, a vocabulary or prepared data that is missing, malformed or does not fit."""


class MissingDataError(DataError):
    """A directory without prepared data; a command adds which command makes them."""


class UnfinishedError(DataError):
    """Preparation that stopped halfway, as on a full disk; the same command continues it."""


class CheckpointError(BertJaxError, ValueError):
    """A run directory or checkpoint that is missing, incomplete or does not fit."""


class DivergenceError(BertJaxError, ArithmeticError):
    """Training whose loss is no longer a number."""
