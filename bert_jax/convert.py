r"""Converts weights of bert_jax, Hugging Face or Google to the format of bert_jax or Hugging Face.

  python -m bert_jax.convert --source=runs/base --output=DIR
  python -m bert_jax.convert --source=uncased_L-12_H-768_A-12/bert_model.ckpt --output=DIR \
    --to=bert_jax
  python -m bert_jax.convert --source=DIR --output=DIR --to=bert_jax --allow=masked_token_head

The command writes a report to OUTPUT/conversion.txt. The report lists every tensor that was used,
reshaped, missing or ignored. An unknown or missing tensor is an error, unless --allow names the
tensor or the part that it belongs to. By default, a run of bert_jax is converted for Hugging Face,
and other weights for bert_jax. For Hugging Face, OUTPUT/README.md is a model card: data and
licences, training, held-out losses beside their baselines, and limits.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

from absl import flags

from bert_jax import command, environment
from bert_jax.errors import CheckpointError, ConfigError
from bert_jax.files import write_atomically


def main() -> None:
    environment.configure_jax()
    source = command.required("source", "a run, or weights of Hugging Face or Google")
    output = command.required_path("output", local=True)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output={output} exists; accepted: a new or an empty directory")
    from bert_jax.data.tokenizers.wordpiece import MAX_WORD_LENGTH
    from bert_jax.runs.load import load_run
    from bert_jax.runs.model_card import model_card
    from bert_jax.runs.save import save_run

    run = load_run(source, allow=flags.FLAGS.allow, lower_case=flags.FLAGS.lower_case)
    to = flags.FLAGS.to or ("bert_jax" if run.loading else "huggingface")
    report = run.report()
    limit = run.tokenizer.to_json().get("max_word_length")
    if to == "huggingface" and limit not in (None, MAX_WORD_LENGTH):
        report += (
            f"\n  tokenizer: transformers replaces words of more than {MAX_WORD_LENGTH} "
            f"characters by [UNK]; the limit of this tokenizer is {limit}"
        )
    target = output.resolve()  # it may be a link, or the current directory
    target.parent.mkdir(parents=True, exist_ok=True)
    made = tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{target.name}.", ignore_cleanup_errors=True
    )
    try:
        with made as temporary:
            directory = Path(temporary) / "converted"
            directory.mkdir()
            save_run(run, directory, to=to)
            write_atomically(directory / "conversion.txt", f"{report}\n")
            if to == "huggingface":
                write_atomically(directory / "README.md", model_card(run, output.name))
            os.replace(directory, target)
    except CheckpointError:
        # TensorStore's other writes still run, and may make the directory again.
        for _ in range(10):
            time.sleep(0.05)
            shutil.rmtree(made.name, ignore_errors=True)
        raise
    print(f"{output}: written for {to}; report: {output}/conversion.txt")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "Weights to convert: a directory or a bert_model.ckpt.")
    flags.DEFINE_string("output", None, "Directory to write. It must be new or empty.")
    flags.DEFINE_enum("to", None, ["bert_jax", "huggingface"], "Output format; see above.")
    flags.DEFINE_multi_string(
        "allow",
        [],
        "Name of a tensor to ignore, or the first part of several names, or a part to initialize "
        "if the source lacks it: bert/pooler, masked_token_head or next_sentence_head. May be "
        "repeated.",
    )
    flags.DEFINE_boolean(
        "lower_case",
        None,
        "Whether the tokenizer lower-cases. Default: as the files say, or as vocab.txt suggests.",
    )
    command.run(main)
