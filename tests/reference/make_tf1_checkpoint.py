"""Writes tests/goldens/tf1 with TensorFlow 2.21.0 in TF1 mode: a checkpoint and its outputs.

    python tests/reference/make_tf1_checkpoint.py

Variables have the names, shapes and orientation of google-research/bert (modeling.py,
run_pretraining.py, optimization.py), and include some moments of its optimizer and its step.
This script computes the outputs with TensorFlow only, without bert_jax.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1

DIRECTORY = Path(__file__).parents[1] / "goldens" / "tf1"
CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 16,
    "initializer_range": 0.02,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 37,
}
WORDS = "the a of to in and is it was he she they saw gave dog cat bird tree house red blue".split()
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
VOCABULARY += ["##s", "##ed", "##ing", ".", ",", "?", "on", "not", "very", "old", "new"]

TOKEN_IDS = [[2, 5, 19, 4, 6, 3, 14, 17, 3, 0], [2, 20, 4, 30, 3, 8, 21, 4, 26, 3]]
SEGMENT_IDS = [[0, 0, 0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]
INPUT_MASK = [[1] * 9 + [0], [1] * 10]

rng = np.random.default_rng(0)


def variable(name, *shape, center=0.0, scale=0.3):
    value = rng.normal(center, scale, shape).astype(np.float32)
    return tf1.get_variable(name, initializer=tf.constant(value))


def dense(x, name, inputs, outputs):
    return x @ variable(f"{name}/kernel", inputs, outputs) + variable(f"{name}/bias", outputs)


def layer_norm(x, name):
    size = CONFIG["hidden_size"]
    gamma = variable(f"{name}/LayerNorm/gamma", size, center=1.0)
    beta = variable(f"{name}/LayerNorm/beta", size)
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(variance + 1e-12) * gamma + beta


def gelu(x):
    return 0.5 * x * (1.0 + tf.math.erf(x / np.sqrt(2.0).astype(np.float32)))


def attention(x, scope, mask):
    size, heads = CONFIG["hidden_size"], CONFIG["num_attention_heads"]
    batch, length = mask.shape

    def split(name):
        x_ = dense(x, f"{scope}/self/{name}", size, size)
        return tf.transpose(tf.reshape(x_, (batch, length, heads, size // heads)), (0, 2, 1, 3))

    query, key, value = split("query"), split("key"), split("value")
    scores = tf.matmul(query, key, transpose_b=True) / np.sqrt(size // heads).astype(np.float32)
    scores += (1.0 - mask[:, None, None, :]) * -10000.0
    context = tf.transpose(tf.nn.softmax(scores) @ value, (0, 2, 1, 3))
    context = tf.reshape(context, (batch, length, size))
    return layer_norm(x + dense(context, f"{scope}/output/dense", size, size), f"{scope}/output")


def bert():
    """Creates the variables and returns the outputs by name."""
    size, middle = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    words = variable("bert/embeddings/word_embeddings", CONFIG["vocab_size"], size)
    types = variable("bert/embeddings/token_type_embeddings", CONFIG["type_vocab_size"], size)
    positions = variable(
        "bert/embeddings/position_embeddings", CONFIG["max_position_embeddings"], size
    )
    mask = np.array(INPUT_MASK, np.float32)
    x = tf.gather(words, TOKEN_IDS) + tf.gather(types, SEGMENT_IDS) + positions[: mask.shape[1]]
    x = layer_norm(x, "bert/embeddings")
    for i in range(CONFIG["num_hidden_layers"]):
        scope = f"bert/encoder/layer_{i}"
        x = attention(x, f"{scope}/attention", mask)
        h = gelu(dense(x, f"{scope}/intermediate/dense", size, middle))
        x = layer_norm(x + dense(h, f"{scope}/output/dense", middle, size), f"{scope}/output")
    pooled = tf.tanh(dense(x[:, 0], "bert/pooler/dense", size, size))
    h = gelu(dense(x, "cls/predictions/transform/dense", size, size))
    h = layer_norm(h, "cls/predictions/transform")
    bias = variable("cls/predictions/output_bias", CONFIG["vocab_size"])
    pair_weights = variable("cls/seq_relationship/output_weights", 2, size)
    pair_bias = variable("cls/seq_relationship/output_bias", 2)
    return {
        "sequence_output": x,
        "pooled_output": pooled,
        "token_logits": tf.matmul(h, words, transpose_b=True) + bias,
        "pair_logits": tf.matmul(pooled, pair_weights, transpose_b=True) + pair_bias,
    }


def main():
    assert len(VOCABULARY) == CONFIG["vocab_size"]
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with tf1.Graph().as_default(), tf1.Session() as session:
        outputs = bert()
        for name in ("bert/embeddings/word_embeddings", "bert/pooler/dense/bias"):
            shape = next(v.shape for v in tf1.global_variables() if v.op.name == name)
            variable(f"{name}/adam_m", *shape)
            variable(f"{name}/adam_v", *shape)
        tf1.train.get_or_create_global_step()
        session.run(tf1.global_variables_initializer())
        tf1.train.Saver().save(
            session, str(DIRECTORY / "bert_model.ckpt"), write_meta_graph=False, write_state=False
        )
        expected = session.run(outputs)
    np.savez(
        DIRECTORY / "expected.npz",
        token_ids=np.array(TOKEN_IDS, np.int32),
        segment_ids=np.array(SEGMENT_IDS, np.int32),
        input_mask=np.array(INPUT_MASK, np.int32),
        **expected,
    )
    (DIRECTORY / "bert_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (DIRECTORY / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")


if __name__ == "__main__":
    main()
