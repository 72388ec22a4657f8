"""bert_jax: pretraining BERT in JAX and Flax, with every number traceable.

Importing this package starts no backend: data workers import it without jax.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    if name in ("load_run", "Run"):
        from bert_jax import runs

        return getattr(runs, name)
    raise AttributeError(f"module 'bert_jax' has no attribute {name!r}")
