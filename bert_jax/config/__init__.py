"""Loads configs from experiment files; overrides, compares, stores and hashes them.

A config is a frozen dataclass. The modules of this folder work on any frozen dataclass; only
`migration` knows names of fields, because it converts configs of earlier formats.
"""

from bert_jax.config.bounds import PositiveFloat as PositiveFloat
from bert_jax.config.bounds import PositiveInt as PositiveInt
from bert_jax.config.bounds import Share as Share
from bert_jax.config.bounds import check_bounds as check_bounds
from bert_jax.config.files import errors_of as errors_of
from bert_jax.config.files import load_experiment as load_experiment
from bert_jax.config.files import load_module as load_module
from bert_jax.config.files import split_spec as split_spec
from bert_jax.config.migration import EARLIER_DEFAULTS as EARLIER_DEFAULTS
from bert_jax.config.migration import FORMAT_VERSION as FORMAT_VERSION
from bert_jax.config.overrides import leaves as leaves
from bert_jax.config.overrides import override as override
from bert_jax.config.parts import codes_of as codes_of
from bert_jax.config.parts import run_copies as run_copies
from bert_jax.config.stored import config_hash as config_hash
from bert_jax.config.stored import diff as diff
from bert_jax.config.stored import flatten as flatten
from bert_jax.config.stored import from_json as from_json
from bert_jax.config.stored import normalize as normalize
from bert_jax.config.stored import to_json as to_json
