"""Sentences of nine languages, compared with sentences that were split by hand."""

from pathlib import Path

import pytest

from bert_jax.data.sentences import LANGUAGES, SENTENCE_F1, split_sentences


def read_paragraphs():
    """Returns the paragraphs of each language; a paragraph is a list of sentences."""
    text = (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8")
    sections = (section.partition("\n") for section in text.strip().split("\n## ")[1:])
    return {
        code: [paragraph.split("\n") for paragraph in rest.strip().split("\n\n")]
        for code, _, rest in sections
    }


PARAGRAPHS = read_paragraphs()


def sentence_f1(paragraphs, language):
    """Returns the F1 of whole sentences, as in the CoNLL 2018 shared task of Zeman et al."""
    found, right, expected = 0, 0, 0
    for sentences in paragraphs:
        ours = split_sentences(("" if language == "zh" else " ").join(sentences), language)
        found, expected = found + len(ours), expected + len(sentences)
        right += len(set(ours) & set(sentences))
    return 2 * right / (found + expected)


def test_there_are_twenty_sentences_of_each_language():
    counts = {code: sum(map(len, paragraphs)) for code, paragraphs in PARAGRAPHS.items()}
    assert counts == dict.fromkeys(("en", "de", "fi", "cs", "el", "tr", "hi", "ar", "zh"), 20)


@pytest.mark.parametrize("language", PARAGRAPHS)
def test_the_sentence_f1_is_the_documented_one(language):
    assert round(sentence_f1(PARAGRAPHS[language], language), 2) == SENTENCE_F1[language]


def test_every_language_splits_text_and_keeps_every_word():
    text = "Una casa. Dr. Wu? 3. Mai\n你好。1923年。 Ja!"
    for language in LANGUAGES:
        sentences = split_sentences(text, language)
        assert "".join(sentences).replace(" ", "") == "".join(text.split()), language
        assert 4 <= len(sentences) <= 8, language


@pytest.mark.parametrize("space", ["\x85", "\u00a0", "\u2028", "\u202f", "\u3000", " \u00a0"])
def test_a_wide_space_between_a_capital_and_a_full_stop(space):
    """sentencex itself ends the process at such a place."""
    english = [f"It was plan A{space}.", f"The U{space}.S. knew it.", f"Vitamin K{space}. Done."]
    assert split_sentences(" ".join(english)) == english
    for language in LANGUAGES:
        sentences = split_sentences(" ".join(english), language)
        assert "".join(sentences).replace(" ", "") == "".join(english).replace(" ", ""), language


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("cs", "Stalo se to 28. října. Nic víc.", ["Stalo se to 28. října.", "Nic víc."]),
        ("tr", "II. Mehmed geldi. Gitti.", ["II. Mehmed geldi.", "Gitti."]),
        ("de", "Im 19. Jahrhundert. Ende.", ["Im 19. Jahrhundert.", "Ende."]),
        ("el", "Πότε; Τώρα.", ["Πότε;", "Τώρα."]),
        ("el", "«Πότε;» ρώτησε. Τώρα.", ["«Πότε;» ρώτησε.", "Τώρα."]),
        ("zh", "他来了。1923年他走了……没有人", ["他来了。", "1923年他走了……", "没有人"]),
    ],
)
def test_the_rules_beside_those_of_the_library(language, text, sentences):
    assert split_sentences(text, language) == sentences
