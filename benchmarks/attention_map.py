"""Draws the attention maps of heads of a run.

python benchmarks/attention_map.py --run=runs/quickstart --heads=2,3 --output=maps.png
"""

import matplotlib.pyplot as plt
from absl import flags

from bert_jax import command
from bert_jax.runs.load import load_run

FLAGS = flags.FLAGS


def main() -> None:
    """Runs the command."""
    run = load_run(command.required_path("run"))
    attention = run.attention(FLAGS.text)
    heads = [int(head) for head in FLAGS.heads]
    figure, axes = plt.subplots(
        1, len(heads), figsize=(4.2 * len(heads), 4.2), layout="constrained", squeeze=False
    )
    for head, place in zip(heads, axes[0], strict=True):
        attention.plot(FLAGS.layer, head, place)
    figure.savefig(command.required_path("output"), dpi=80)


if __name__ == "__main__":
    flags.DEFINE_string("run", None, "Directory of a run.")
    flags.DEFINE_string(
        "text", "The president of the United States spoke to the congress.", "The text."
    )
    flags.DEFINE_integer("layer", 0, "The layer, from 0.")
    flags.DEFINE_list("heads", ["0"], "The heads, from 0.")
    flags.DEFINE_string("output", None, "PNG or SVG to write.")
    command.run(main)
