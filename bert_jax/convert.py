"""Converts weights: runs, directories of Hugging Face's BERT and Google's TensorFlow checkpoints.

  python -m bert_jax.convert --source=DIR --output=DIR --to=huggingface
  python -m bert_jax.convert --source=uncased_L-12_H-768_A-12/bert_model.ckpt --output=DIR
      --to=bert_jax
  python -m bert_jax.convert --source=DIR --output=DIR --to=bert_jax --allow=masked_token_head

The report, also in OUTPUT/conversion.txt, lists every tensor that was used, reshaped, missing or
left out. What nothing explains is an error, unless --allow names it.
"""

import os
import tempfile
from pathlib import Path

from absl import flags

from bert_jax import command, environment
from bert_jax.errors import ConfigError
from bert_jax.files import write_atomically


def main() -> None:
    """Runs the command."""
    environment.configure_jax()
    if not flags.FLAGS.source or not flags.FLAGS.output:
        raise ConfigError("--source and --output are needed; see --help")
    output = Path(flags.FLAGS.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output={output} exists; accepted: a new or an empty directory")
    from bert_jax.data.tokenizers.wordpiece import MAX_WORD_LENGTH
    from bert_jax.runs.run import load_run, save_run

    run = load_run(flags.FLAGS.source, allow=flags.FLAGS.allow)
    report = run.report()
    limit = run.tokenizer.to_json().get("max_word_length")
    if flags.FLAGS.to == "huggingface" and limit != MAX_WORD_LENGTH:
        report += (
            f"\n  tokenizer: transformers makes [UNK] of words of more than "
            f"{MAX_WORD_LENGTH} characters whatever is written; here the limit is {limit}"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        directory = Path(temporary) / "converted"
        directory.mkdir()
        save_run(run, directory, to=flags.FLAGS.to)
        write_atomically(directory / "conversion.txt", f"{report}\n")
        os.replace(directory, output)
    print(report)
    print(f"{output}: written for {flags.FLAGS.to}")


if __name__ == "__main__":
    flags.DEFINE_string("source", None, "What to convert: a directory, or a bert_model.ckpt.")
    flags.DEFINE_string("output", None, "Directory to write, which is not there yet.")
    flags.DEFINE_enum("to", "bert_jax", ["bert_jax", "huggingface"], "Format to write.")
    flags.DEFINE_multi_string(
        "allow",
        [],
        "A tensor to leave out, or bert/pooler, masked_token_head or next_sentence_head to "
        "initialize if the source lacks it; may be repeated.",
    )
    command.run(main)
