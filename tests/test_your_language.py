"""The five commands of docs/your-language.md lead from a folder of Finnish text to an encoder."""

import pytest
from your_language import COMMANDS, run_page

from bert_jax import load_run


def test_the_page_has_five_commands_and_all_after_the_first_have_at_most_two_flags():
    assert len(COMMANDS) == 5
    assert all(command.count(" --") <= 2 for command in COMMANDS[1:])


@pytest.mark.slow
def test_the_commands_of_the_page_make_an_encoder_from_a_folder_of_finnish_text(tmp_path):
    new, prepare, pretrain, convert, upload = run_page(tmp_path)
    for result in (new, prepare, pretrain, convert, upload):
        assert result.returncode == 0, result.stderr
    assert new.stdout.startswith("mine.py: BERT-tiny for fi, from 2 files")
    assert "data/mine: train" in prepare.stdout
    assert "held-out mlm loss" in pretrain.stdout
    assert convert.stdout == "mine-hf: written for huggingface; report: mine-hf/conversion.txt\n"
    assert (tmp_path / "uploaded.txt").read_text() == "upload OWNER/mine mine-hf\n"
    card = (tmp_path / "mine-hf" / "README.md").read_text(encoding="utf-8")
    for part in ("language: fi", "text:corpora/fi/*.txt", "updates | 6 of 6", "word frequencies"):
        assert part in card, part
    assert "not known" not in card
    run = load_run(tmp_path / "mine-hf")
    assert run.tokenizer.encode("Tiedosto") == load_run(tmp_path / "runs/mine").tokenizer.encode(
        "Tiedosto"
    )
