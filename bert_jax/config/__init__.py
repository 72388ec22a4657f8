"""Loads configs from experiment files; overrides, compares, stores and hashes them.

A config is a frozen dataclass. The modules of this folder work on any frozen dataclass; only
`migration` knows names of fields, because it converts configs of earlier formats.
"""

from bert_jax.config.bounds import PositiveFloat, PositiveInt, Share, check_bounds
from bert_jax.config.files import errors_of, load_experiment, load_module, split_spec
from bert_jax.config.migration import EARLIER_DEFAULTS, FORMAT_VERSION
from bert_jax.config.overrides import leaves, override
from bert_jax.config.parts import codes_of, run_copies
from bert_jax.config.stored import config_hash, diff, flatten, from_json, normalize, to_json
