"""Checks the result of the quick start; usage: check_quickstart.py RUN."""

import json
import sys
from pathlib import Path

run = Path(sys.argv[1])
result = json.loads((run / "result.json").read_text())
config = json.loads((run / "config.json").read_text())

below_unigram = result["unigram_loss"] - result["mlm_loss"]
accuracy_ratio = result["mlm_accuracy"] / result["majority_token_accuracy"]
print(f"{result['seconds']:.0f} s of training and compiling")
print(f"{below_unigram:.3f} nats below unigram, {accuracy_ratio:.2f} x the most frequent token")
assert config["model"]["vocab_size"] >= 4000, config["model"]["vocab_size"]
# README gives the range 4.86 to 5.33 over seeds and machines.
assert 4.7 <= result["mlm_loss"] <= 5.45, result
assert accuracy_ratio >= 2, result
