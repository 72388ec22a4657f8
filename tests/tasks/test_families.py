"""The families without a model: parsing, encoding, decoding, scoring."""

import json
from typing import get_args

import numpy as np
import pytest

from bert_jax.errors import ConfigError, DataError
from bert_jax.interop.names import TASK_CLASSES
from bert_jax.tasks.config import FamilyName, TaskConfig
from bert_jax.tasks.families import question_answering as qa
from bert_jax.tasks.families import tagging
from bert_jax.tasks.families.answers import exact_match, overlap_f1
from bert_jax.tasks.families.batches import (
    epoch_batches,
    padded_length,
    shuffled,
    stack,
)
from bert_jax.tasks.families.classification import CLASSIFICATION
from bert_jax.tasks.families.family import EncoderInput, Example, Row
from bert_jax.tasks.families.multiple_choice import MULTIPLE_CHOICE
from bert_jax.tasks.families.registry import FAMILIES
from bert_jax.tasks.families.regression import REGRESSION
from bert_jax.tasks.families.texts import lay_out_texts
from bert_jax.tasks.readers.records import Record


def task(family, **fields):
    token_task = family in ("tagging", "question_answering")
    fields = {"representation": "last" if token_task else "cls", "max_length": 16} | fields
    return TaskConfig(family=family, train="tsv:a", dev="tsv:b", **fields)


def record(**fields):
    return Record("file:7", fields)


def test_every_family_is_named_wherever_a_family_must_be_named():
    assert set(FAMILIES) == set(get_args(FamilyName)) == set(TASK_CLASSES)
    for name, family in FAMILIES.items():
        with pytest.raises(ConfigError, match="accepted: (last|cls), .* for "):
            task(name, representation="cls" if family.unit == "token" else "last")


# ---- Texts ---------------------------------------------------------------------------------------


def test_rows_of_one_text_and_of_two(tokenizer):
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    one = lay_out_texts([5, 6], None, max_length=8, tokenizer=tokenizer)
    assert one == ([cls, 5, 6, sep], [0, 0, 0, 0])
    two = lay_out_texts([5], [6, 7], max_length=8, tokenizer=tokenizer)
    assert two == ([cls, 5, sep, 6, 7, sep], [0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("lengths", "max_length", "kept"),
    [((9, 3), 11, (5, 3)), ((9, 9), 10, (4, 3)), ((3, 9), 11, (3, 5)), ((5, 3), 11, (5, 3))],
)
def test_truncation_cuts_the_end_of_the_longer_or_second_text(lengths, max_length, kept, tokenizer):
    first, second = list(range(100, 100 + lengths[0])), list(range(200, 200 + lengths[1]))
    ids, _ = lay_out_texts(first, second, max_length=max_length, tokenizer=tokenizer)
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    assert ids == [cls, *first[: kept[0]], sep, *second[: kept[1]], sep]
    ids, _ = lay_out_texts(first, None, max_length=5, tokenizer=tokenizer)
    assert ids == [cls, *first[:3], sep]


def test_rows_that_fill_up_a_batch_have_weight_0(tokenizer):
    config = task("classification")
    example = CLASSIFICATION.parse(record(text="good film", label="1"), config, ("0", "1"))
    rows = CLASSIFICATION.encode(0, example, config, tokenizer)
    batch = stack(rows, family=CLASSIFICATION, batch_size=3, length=8, pad_id=0)
    assert batch.weights.tolist() == [1, 0, 0] and batch.labels[0] == 1
    assert batch.pack_ids.sum() == 4 and batch.pack_ids[0, 0].tolist() == [1] * 4 + [0] * 4


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch():
    order = shuffled(50, seed=1, epoch=2)
    assert (order == shuffled(50, seed=1, epoch=2)).all() and sorted(order) == list(range(50))
    for other in (shuffled(50, seed=2, epoch=2), shuffled(50, seed=1, epoch=3)):
        assert (order != other).any()


def test_rows_are_padded_to_a_multiple_of_8_but_not_beyond_the_models_positions():
    rows = [Row((EncoderInput([0] * length, [0] * length),), 0, 1.0, 0) for length in (3, 57)]
    assert [padded_length(rows, longest) for longest in (60, 64, 128)] == [60, 64, 64]
    assert [padded_length(rows, 128, multiple=n) for n in (1, 8, 16, 32)] == [57, 64, 64, 64]


@pytest.mark.parametrize("by_length", [False, True])
def test_an_epoch_has_every_row_once(by_length, tokenizer):
    """Rows have 3 to 52 tokens. Grouped by length, a batch of 4 has little padding."""
    lengths = np.random.default_rng(0).permutation(150) % 50 + 3
    rows = [Row((EncoderInput([5] * n, [0] * n),), i, 1.0, i) for i, n in enumerate(lengths)]
    made = {
        (seed, epoch): list(
            epoch_batches(rows, seed=seed, epoch=epoch, size=4, by_length=by_length)
        )
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    }
    for batches in made.values():
        assert sorted(map(len, batches)) == [2] + [4] * 37
        assert sorted(row.example for batch in batches for row in batch) == list(range(150))
    assert len({str(batches) for batches in made.values()}) == 3
    # A row has 28 tokens on average; the longest of four random rows has 43.
    widths = [padded_length(batch, 52, multiple=16) for batch in made[1, 0]]
    assert set(widths) <= {16, 32, 48, 52} and (np.mean(widths) < 37) == by_length
    # The batches are not sorted by length.
    assert not (np.diff(widths) >= 0).all() and not (np.diff(widths) <= 0).all()


def test_the_error_names_an_unknown_label():
    for label in ("2", None, True):
        parse = CLASSIFICATION.parse
        if label is None:  # a hidden label
            assert parse(record(text="a", label=None), task("classification"), ("0",)).gold is None
            continue
        with pytest.raises(DataError, match="file:7: label is '(2|true)'; accepted: 0, 1"):
            parse(record(text="a", label=label), task("classification"), ("0", "1"))
    with pytest.raises(DataError, match="file:7 has no field 'label'"):
        CLASSIFICATION.parse(record(text="a"), task("classification"), ("0",))
    with pytest.raises(DataError, match="file:7: text is 3 .int.; accepted: a text"):
        CLASSIFICATION.parse(record(text=3, label="0"), task("classification"), ("0",))
    for number in ("x", "nan", []):
        with pytest.raises(DataError, match="file:7: label is .*; accepted: a finite number"):
            REGRESSION.parse(record(text="a", label=number), task("regression"), ())


def test_predictions_are_written_in_the_order_of_glues_index():
    def parsed(family, labels, indices):
        config = task("classification" if labels else "regression")
        given = [
            {"text": "a", "label": None} | ({"idx": i} if i is not None else {}) for i in indices
        ]
        given = [record(**fields) for fields in given]
        return [family.parse(one, config, labels) for one in given]

    labels = ("no", "yes")
    examples = parsed(CLASSIFICATION, labels, [10, 2, 0])
    name, text = CLASSIFICATION.write_predictions([1, 0, 1], examples, labels)
    assert (name, text) == ("tsv", "index\tprediction\n0\tyes\n2\tno\n10\tyes\n")
    numbers = parsed(REGRESSION, (), [1, 2, 0])
    _, text = REGRESSION.write_predictions([0.5, 1.5, 2.5], numbers, ())
    assert text == "index\tprediction\n0\t2.5000\n1\t0.5000\n2\t1.5000\n"
    # One example has no index, or an index that is not a number.
    for other in (None, {"question": 1}, 7):  # or the index of another
        examples = parsed(CLASSIFICATION, labels, [7, other])
        _, text = CLASSIFICATION.write_predictions([1, 0], examples, labels)
        assert text == "index\tprediction\n0\tyes\n1\tno\n"


def test_metrics_agree_with_their_definitions():
    predicted = np.array([1, 1, 0, 1, 0, 0])
    gold = np.array([1, 0, 0, 1, 1, 0])
    outcomes = np.stack([predicted, gold], axis=1).astype(float)
    # 2 true positives, 1 false positive, 1 false negative, 2 true negatives.
    of = {name: metric(outcomes) for name, metric in CLASSIFICATION.metrics.items()}
    assert of["accuracy"] == pytest.approx(4 / 6)
    assert of["f1"] == pytest.approx(2 / 3) and of["macro_f1"] == pytest.approx(2 / 3)
    assert of["matthews"] == pytest.approx((2 * 2 - 1 * 1) / 9)
    numbers = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 9.0]])
    assert REGRESSION.metrics["spearman"](numbers) == pytest.approx(1.0)
    assert REGRESSION.metrics["pearson"](numbers) == pytest.approx(0.9707, abs=1e-4)
    assert REGRESSION.metrics["pearson"](np.array([[1.0, 2.0], [1.0, 3.0]])) == 0.0


# ---- Tags ----------------------------------------------------------------------------------------


def test_the_first_piece_of_each_token_has_its_tag_and_weight_1(tokenizer):
    config = task("tagging", text="token", label="tag")
    given = record(token=["playing", "film.", "."], tag=["V", "N", "V"])
    parsed = tagging.parse(given, config, ("N", "V"))
    (row,) = tagging.encode(0, parsed, config, tokenizer)
    assert [tokenizer.pieces[i] for i in row.inputs[0].token_ids] == [
        *("[CLS]", "play", "##ing", "film", ".", ".", "[SEP]")
    ]
    assert row.weight == [0, 1, 0, 1, 0, 1, 0]
    assert [row.label[position] for position in (1, 3, 5)] == [1, 0, 1]
    batch = stack([row], family=tagging.TAGGING, batch_size=2, length=8, pad_id=0)
    assert batch.weights.sum() == 3


def test_a_long_sentence_continues_in_another_row_and_no_token_is_lost(tokenizer):
    config = task("tagging", text="token", label="tag", max_length=8)
    tokens = ["playing"] * 5 + ["film", "\x00"]  # the last has no piece
    parsed = tagging.parse(record(token=tokens, tag=["V"] * 5 + ["N", "N"]), config, ("N", "V"))
    rows = tagging.encode(0, parsed, config, tokenizer)
    assert all(len(row.inputs[0].token_ids) <= 8 for row in rows) and len(rows) == 2
    answers = []
    for row in rows:
        tags = np.full(8, -1)
        for position, weight in enumerate(row.weight):
            tags[position] = row.label[position] if weight else -1
        answers.append(np.stack([tags, np.full(8, 0.5)], axis=-1))
    assert tagging.decode(answers, rows, [parsed], config) == [[1] * 5 + [0, 0]]


@pytest.mark.parametrize(("tokens", "rows"), [(6, 1), (7, 2), (12, 2), (13, 3)])
def test_a_row_is_filled_before_another_starts(tokens, rows, tokenizer):
    config = task("tagging", text="token", label="tag", max_length=8)
    parsed = tagging.parse(record(token=["film"] * tokens, tag=["N"] * tokens), config, ("N",))
    assert len(tagging.encode(0, parsed, config, tokenizer)) == rows


def test_the_baseline_tag_is_the_most_frequent_for_a_word_or_overall():
    def sentence(words, tags):
        return Example("", tuple(words.split()), tags)

    train = [sentence("play the play", (0, 1, 2)), sentence("play a film", (2, 1, 1))]
    found = tagging.baselines(train, [sentence("play the bad film", None)])
    assert found == {"majority": [[1] * 4], "majority_of_word": [[2, 1, 1, 1]]}
    with pytest.raises(DataError, match="number of tags in task.train is 0; accepted: at least 1"):
        tagging.baselines([sentence("a film", (None, None))], train)


def test_the_error_names_tag_and_token_counts_that_differ():
    config = task("tagging", text="token", label="tag")
    with pytest.raises(DataError, match="file:7 has 1 tag for 2 token; accepted: one for each"):
        tagging.parse(record(token=["a", "b"], tag=["N"]), config, ("N",))
    with pytest.raises(DataError, match="file:7: tag is 'X'; accepted: N"):
        tagging.parse(record(token=["a"], tag=["X"]), config, ("N",))


def test_the_error_names_tags_that_are_not_a_list():
    config, given = task("tagging", text="token", label="tag"), record(token=["a"], tag=3)
    assert tagging.label_names([given], config) == ()
    with pytest.raises(DataError, match="file:7: tag is 3; accepted: a list"):
        tagging.parse(given, config, ("N",))


def test_a_text_without_tags_is_split_into_tokens(tokenizer):
    config = task("tagging", text="token", label="tag")
    text = " The film's\tgood\u00a0(very). 北京 play\u0301ing\u200b "
    parsed = tagging.parse(record(token=text, tag=None), config, ("N",))
    tokens = ("The", "film", "'", "s", "good", "(", "very", ")", ".", "北", "京", "play\u0301ing")
    assert parsed.texts == tokens and parsed.gold is None
    assert tuple(text[start:end] for start, end in parsed.offsets) == tokens
    assert tagging.label_names([record(token=text, tag=None)], config) == ()
    with pytest.raises(DataError, match="file:7: token is 'a'; accepted: a list"):
        tagging.parse(record(token="a", tag=["N"]), config, ("N",))
    listed = tagging.parse(record(token=["a", "film"], tag=None), config, ("N",))
    assert listed.texts == ("a", "film") and listed.gold is None and listed.offsets == ()
    (row,) = tagging.encode(0, listed, config, tokenizer)
    assert row.weight == [0, 0, 0, 0]


@pytest.mark.parametrize("token", [None, 3, {"a": 1}, "", "a\nb", "a\r", "\ud83d"])
def test_a_token_is_a_text_within_a_line(token):
    config, given = (
        task("tagging", text="token", label="tag"),
        record(token=["a", token], tag=[1, 1]),
    )
    with pytest.raises(DataError, match="file:7: token .*; accepted: (a text|tokens|UTF-8)"):
        tagging.parse(given, config, ("1",))


@pytest.mark.parametrize("none", [-100, "-100"])
def test_minus_100_is_no_tag(none, tokenizer):
    config = task("tagging", text="token", label="tag")
    given = record(token=["good", "film", "New York"], tag=["B-X", none, "O"])
    labels = tagging.label_names([given], config)
    assert labels == ("B-X", "O")
    example = tagging.parse(given, config, labels)
    (row,) = tagging.encode(0, example, config, tokenizer)
    assert [row.weight[position] for position, _ in row.alignment] == [1, 0, 1]
    outcomes = tagging.score([[0, 0, 1]], [example], labels)
    assert outcomes.tolist() == [[2, 2, 1, 1, 1]]
    found = tagging.baselines([example], [example])
    assert found["majority_of_word"] == [[0, 0, 1]]
    _, text = tagging.write_predictions([[0, 0, 1]], [example], labels)
    assert text == "good B-X B-X\nNew\u00a0York O O\n"  # conlleval splits at spaces


def test_the_tags_of_a_sentence_can_be_hidden(tokenizer):
    config = task("tagging", text="token", label="tag")
    example = tagging.parse(record(token=["good", "New York"], tag=None), config, ("B-X", "O"))
    assert example.gold is None
    (row,) = tagging.encode(0, example, config, tokenizer)
    assert not any(row.weight)
    _, text = tagging.write_predictions([[1, 0]], [example], ("B-X", "O"))
    assert text == "good O\nNew\u00a0York B-X\n"


def test_a_null_tag_is_not_a_label():
    config, given = task("tagging", text="token", label="tag"), record(token=["a"] * 2)
    given.fields["tag"] = ["N", None]
    assert tagging.label_names([given], config) == ("N",)
    with pytest.raises(DataError, match="file:7: tag is None; accepted: N"):
        tagging.parse(given, config, ("N",))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", {(0, 1, "PER"), (3, 3, "LOC")}),
        ("I-PER I-PER O I-LOC", {(0, 1, "PER"), (3, 3, "LOC")}),  # IOB1
        ("I-PER B-PER I-PER", {(0, 0, "PER"), (1, 2, "PER")}),
        ("B-PER I-LOC", {(0, 0, "PER"), (1, 1, "LOC")}),
        (
            "S-PER S-PER B-LOC E-LOC I-LOC",
            {(0, 0, "PER"), (1, 1, "PER"), (2, 3, "LOC"), (4, 4, "LOC")},
        ),
        ("S-PER I-PER", {(0, 0, "PER"), (1, 1, "PER")}),
        ("S-PER E-PER", {(0, 0, "PER"), (1, 1, "PER")}),
        ("B-PER E-PER E-PER", {(0, 1, "PER"), (2, 2, "PER")}),
        ("B-PER S-PER I-PER", {(0, 0, "PER"), (1, 1, "PER"), (2, 2, "PER")}),
        ("I-PER O I-PER", {(0, 0, "PER"), (2, 2, "PER")}),
        ("B-A-B I-A-B", {(0, 1, "A-B")}),
        ("O O", set()),
        ("U-PER B-LOC I-LOC L-LOC U-LOC", {(0, 0, "PER"), (1, 3, "LOC"), (4, 4, "LOC")}),  # BILOU
        ("B-ORG M-ORG M-ORG E-ORG S-PER", {(0, 3, "ORG"), (4, 4, "PER")}),  # BMES
    ],
)
def test_entities_agree_with_conlleval(tags, expected):
    assert tagging.entities(tags.split()) == expected


def test_entity_f1_counts_whole_entities_and_is_none_for_parts_of_speech():
    labels = ("B-PER", "I-PER", "O")
    example = [type("E", (), {"gold": (0, 1, 2, 0)})]  # PER PER O PER
    outcomes = tagging.score([[0, 2, 2, 0]], example, labels)
    assert tagging.token_accuracy(outcomes) == 0.75
    assert tagging.entity_f1(outcomes) == pytest.approx(0.5)  # one of two, two predicted
    assert tagging.entity_f1(tagging.score([[0, 2, 2, 0]], example, ("A", "B", "C"))) is None
    for labels in (("U-PER", "L-PER", "O"), ("S-PER", "M-PER", "O")):
        assert tagging.marks_entities(labels)


# ---- Questions -----------------------------------------------------------------------------------


PASSAGE = "a good film is playing . who played the bad film ? the good film is very bad ."


def question(tokenizer, answers, **fields):
    names = {"text": "question", "text_pair": "context", "label": "answers"}
    fields = names | {"no_answer": True, "max_question_length": 4} | fields
    config = task("question_answering", **fields)
    given = record(id="q", question="who is playing", context=PASSAGE, answers=answers)
    return qa.parse(given, config, ()), config


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("film", ["film"]),  # a full stop touches it
        ("film.", ["film", "."]),
        (".", ["."]),
        ("(who", ["[UNK]", "who"]),
        ("who", ["who"]),  # a bracket touches it
        ("played", ["play", "##ed"]),
        ("ed", ["##ed"]),
        ("laye", ["play", "##ed"]),
        (" played", ["play", "##ed"]),
        (" ", None),
    ],
)
def test_an_answer_covers_every_token_that_it_overlaps(text, tokens, tokenizer):
    passage = "a good film. (who played)"
    encoded = tokenizer.encode_with_offsets(passage)
    found = qa.token_span(encoded, text, passage.index(text))
    if tokens is None:
        assert found is None
    else:
        ids = encoded.ids[found[0] : found[1] + 1]
        assert [tokenizer.pieces[i] for i in ids] == tokens


@pytest.mark.parametrize(
    ("length", "stride", "starts"),
    [(9, 3, [0]), (10, 3, [0, 3]), (12, 3, [0, 3]), (13, 3, [0, 3, 6]), (20, 30, [0, 9, 18])],
)
def test_windows_end_where_the_passage_ends(length, stride, starts):
    assert qa.window_starts(length, room=9, stride=stride) == starts


def test_the_first_of_two_windows_with_equal_context_is_best():
    best = qa.best_windows([0, 2], room=5, length=7)
    assert best[3] == 0  # the smaller side has one token in both windows


@pytest.mark.parametrize(("token", "best"), [(274, 0), (275, 0), (276, 1)])
def test_a_window_scores_a_hundredth_of_its_length(token, best):
    """Windows of 300 and 150 tokens, so token 275 gets 24 + 3 and 25 + 1.5."""
    assert qa.best_windows([0, 250], room=300, length=400)[token] == best


# Windows begin at tokens 0, 3, 6, 9 and 12 and hold 9 tokens.
@pytest.mark.parametrize(
    ("answer", "holding"), [("bad film", 2), ("is playing", 2), ("very bad", 1), ("bad .", 1)]
)
def test_the_answer_is_found_in_every_window_that_holds_it(answer, holding, tokenizer):
    example, config = question(tokenizer, [(answer, PASSAGE.index(answer))], stride=3)
    rows = qa.encode(0, example, config, tokenizer)
    assert len(rows) == 5 and all(len(row.inputs[0].token_ids) <= 16 for row in rows)
    found = [row for row in rows if row.label != (0, 0)]
    assert len(found) == holding
    for row in found:
        window = row.alignment
        first, last = (position - window.first for position in row.label)
        assert PASSAGE[window.offsets[first][0] : window.offsets[last][1]] == answer
    # Every token of the passage has exactly one best window.
    best = [
        offset
        for row in rows
        for offset, is_best in zip(row.alignment.offsets, row.alignment.best, strict=True)
        if is_best
    ]
    assert sorted(best) == tokenizer.encode_with_offsets(PASSAGE).offsets


def test_the_best_span_over_windows_is_the_answer(tokenizer):
    start = PASSAGE.index("very bad")
    example, config = question(tokenizer, [("very bad", start)], stride=3)
    rows = qa.encode(0, example, config, tokenizer)
    answers = []
    for number, row in enumerate(rows):
        logits = np.zeros((16, 2), np.float32)
        if row.label != (0, 0):
            logits[row.label[0], 0] = logits[row.label[1], 1] = 5.0
        logits[0] = 1.0 + number  # the lowest no-answer score of all windows counts
        answers.append(logits)
    (found,) = qa.decode(answers, rows, [example], config)
    assert found.text == "very bad" and found.null_margin == pytest.approx(2 - 10)
    assert PASSAGE[slice(*found.span)] == "very bad"


@pytest.mark.parametrize("no_answer", [False, True])
def test_the_probability_of_an_answer_is_its_share_of_all_answers(no_answer, tokenizer):
    """In a window that holds the whole passage, every span is listed by hand."""
    fields = {"no_answer": no_answer, "max_length": 40, "max_answer_length": 3}
    example, config = question(tokenizer, ["good"], **fields)
    rows = qa.encode(0, example, config, tokenizer)
    logits = np.random.default_rng(0).normal(size=(40, 2))
    (found,) = qa.decode([logits], rows, [example], config)
    (row,) = rows
    first = row.alignment.first
    last = first + len(row.alignment.offsets)
    scores = [
        logits[i, 0] + logits[j, 1] for i in range(first, last) for j in range(i, min(i + 3, last))
    ]
    null = logits[0].sum()
    total = np.exp(scores).sum() + no_answer * np.exp(null)
    assert found.probability == pytest.approx(np.exp(max(scores)) / total)
    assert found.null_probability == pytest.approx(np.exp(null) / total)
    # A passage without tokens has no span.
    empty = example._replace(texts=(example.texts[0], " "), gold=None)
    (found,) = qa.decode([logits], qa.encode(0, empty, config, tokenizer), [empty], config)
    (answer,) = qa.describe((), [found])
    assert answer == {"answer": "", "start": None, "end": None, "probability": 1.0}


def test_an_answer_keeps_the_accent_of_its_last_character(tokenizer):
    """The tokenizer removes accents, so no token has them. In Hindi, they are vowels."""
    passage = "a good pla\u0301ying\u0301\u0302, film"
    example, config = question(tokenizer, [], max_length=40)
    example = example._replace(texts=("who", passage), gold=None)
    (row,) = qa.encode(0, example, config, tokenizer)
    logits = np.zeros((40, 2))
    first = row.alignment.first
    logits[first + 2, 0] = logits[first + 3, 1] = 9.0  # play and ##ing
    (found,) = qa.decode([logits], [row], [example], config)
    assert found.text == passage[slice(*found.span)] == "pla\u0301ying\u0301\u0302"


def test_a_span_ends_after_its_start_and_has_at_most_max_length_tokens():
    window = qa.Window(1, [(i, i + 1) for i in range(6)], [True] * 6)
    start, end = np.zeros(8), np.zeros(8)
    start[6], end[1] = 9.0, 9.0  # the highest end is before the highest start

    def best_span(max_length):
        return qa.best_span(qa.span_scores(start, end, window, max_length=max_length), window)

    _, (first, last) = best_span(2)
    assert 0 < last - first <= 2
    end[4] = 8.0
    start[2] = 9.0  # the span from 2 to 4 has three tokens
    assert best_span(3) == (17.0, (1, 4))
    assert best_span(2)[0] < 17.0
    start[4] = 9.5
    assert best_span(1) == (17.5, (3, 4))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([("good", 3)], "file:7: answer 'good' is not in its passage at character 3"),
        (["nowhere"], "file:7: answer 'nowhere' is not in its passage"),
        ([("", 0)], "file:7: answer '' is not in its passage"),
        (5, "file:7: answers has 5; accepted: a text, or text and answer_start"),
        ([None], "file:7: answers has None; accepted"),
        ([("good", "2")], r"file:7: answers has \('good', '2'\); accepted"),
        ([("good", None)], r"file:7: answers has \('good', None\); accepted"),
        (
            [{"text": "good", "answer_start": "2"}],
            "file:7: answers has {'text': 'good', .*accepted",
        ),
        ([{"text": "good"}], "file:7: answers has {'text': 'good'}; accepted"),
        ({"text": ["good"], "answer_start": [None]}, r"answers has \('good', None\); accepted"),
        ({"text": ["good"], "answer_start": []}, "file:7: answers has {'text': .*; accepted"),
    ],
)
def test_the_error_names_an_answer_that_is_not_in_its_passage(answers, said, tokenizer):
    with pytest.raises(DataError, match=said):
        question(tokenizer, answers)


@pytest.mark.parametrize(
    "answers",
    [
        "good",
        ["good"],
        [["good", 2]],
        {"text": "good", "answer_start": 2},
        [{"text": "good", "answer_start": 2}],
        {"text": ["good"], "answer_start": [2]},
    ],
)
def test_answers_may_be_in_any_usual_form(answers, tokenizer):
    assert question(tokenizer, answers)[0].gold == (("good", 2),)


def test_a_question_with_hidden_answers_is_answered(tokenizer):
    assert question(tokenizer, {"text": [], "answer_start": []})[0].gold == ()
    example, config = question(tokenizer, None)
    assert example.gold is None
    rows = qa.encode(0, example, config, tokenizer)
    answers = [np.zeros((16, 2), np.float32) for _ in rows]
    predictions = qa.decode(answers, rows, [example], config)
    _, text = qa.write_predictions(predictions, [example], ())
    assert list(json.loads(text)) == ["q"]


def test_a_question_without_answer_is_an_error_unless_it_may_have_none(tokenizer):
    assert question(tokenizer, [])[0].gold == ()
    with pytest.raises(DataError, match="file:7 has no answer"):
        question(tokenizer, [], no_answer=False)


def test_the_loss_of_a_span_does_not_depend_on_padding_or_on_empty_rows(tokenizer):
    rng = np.random.default_rng(0)
    rows = qa.encode(0, *question(tokenizer, ["good"]), tokenizer)[:1]
    tokens, (start, end) = len(rows[0].inputs[0].token_ids), rows[0].label
    drawn = rng.normal(size=(tokens, 2))
    losses = []
    for length in (tokens, tokens + 9):
        batch = stack(rows, family=qa.QUESTION_ANSWERING, batch_size=2, length=length, pad_id=0)
        logits = np.zeros((2, length, 2), np.float32)
        logits[0, :tokens] = drawn
        losses.append(float(qa.span_loss(logits, batch).compute()))
    by_hand = np.log(np.exp(drawn).sum(0)) - [drawn[start, 0], drawn[end, 1]]
    # float32 sums of a dozen terms.
    np.testing.assert_allclose(losses, by_hand.mean(), rtol=1e-6)


def test_exact_match_and_f1_count_like_the_squad_script():
    assert exact_match("The  Film!", "film") == 1 and exact_match("films", "film") == 0
    # 'good film' and 'very good film': 2 shared of 2 and 3 words.
    assert overlap_f1("a good film", "very good film") == pytest.approx(4 / 5)
    assert overlap_f1("", "") == 1 and overlap_f1("the", "film") == 0


def test_the_threshold_is_the_best_on_dev():
    answers = [qa.Answer("good", -3.0), qa.Answer("film", -1.0), qa.Answer("bad", 2.0)]
    golds = [(("good", 0),), (), ()]
    examples = [type("E", (), {"gold": gold}) for gold in golds]
    threshold = qa.choose_threshold(answers, examples, "f1")
    assert -3.0 <= threshold < -1.0
    outcomes = qa.score(qa.apply_threshold(answers, threshold), examples, ())
    assert qa.QUESTION_ANSWERING.metrics["f1"](outcomes) == 1.0
    assert qa.QUESTION_ANSWERING.metrics["unanswerable_accuracy"](outcomes) == 1.0
    assert qa.choose_threshold(answers[:1], examples[:1], "f1") is None
    assert qa.choose_threshold(answers, examples, "answerable_f1") is None
    # Equal margins are answered together, or not at all.
    together = [qa.Answer("good", -1.0), qa.Answer("film", -1.0)]
    assert qa.choose_threshold(together, examples[:2], "f1") < -1.0
    # Where no threshold would be better, nothing is answered.
    wrong = [qa.Answer("bad", -3.0), *answers[1:]]
    assert qa.choose_threshold(wrong, examples, "f1") < -3.0


def test_an_answer_is_scored_with_its_best_gold_answer():
    golds = [(("bad", 0), ("good film", 2)), (), (("the", 0), ("film", 4))]
    examples = [Example("", (), gold) for gold in golds]
    texts = ("a film", "", "")
    outcomes = qa.score([qa.Answer(text, 0.0) for text in texts], examples, ())
    # A gold answer without words, such as an article, is left out.
    np.testing.assert_allclose(outcomes, [[0, 2 / 3, 1], [1, 1, 0], [0, 0, 1]])
    metrics = {name: m(outcomes) for name, m in qa.QUESTION_ANSWERING.metrics.items()}
    assert metrics["answerable_exact_match"] == 0 and metrics["unanswerable_accuracy"] == 1
    assert qa.QUESTION_ANSWERING.metrics["unanswerable_accuracy"](outcomes[::2]) is None


def test_the_baseline_is_the_first_sentence_that_shares_most_words():
    played = "who played the bad film ?"
    assert qa.overlapping_sentence("who is playing", PASSAGE) == "a good film is playing ."
    assert qa.overlapping_sentence("who played", PASSAGE) == played
    assert qa.overlapping_sentence("?", PASSAGE) == "a good film is playing ."


# ---- Choices -------------------------------------------------------------------------------------


def test_each_choice_is_an_input_with_the_text_before_it(tokenizer):
    config = task(
        "multiple_choice", text="sent", text_pair="one, two", choice_start="start", label="label"
    )
    given = record(sent="the film", start="is", one="good", two="bad .", label=1)
    example = MULTIPLE_CHOICE.parse(given, config, MULTIPLE_CHOICE.label_names([], config))
    (row,) = MULTIPLE_CHOICE.encode(0, example, config, tokenizer)
    texts = [tokenizer.decode(one.token_ids) for one in row.inputs]
    assert texts == ["[CLS] the film [SEP] is good [SEP]", "[CLS] the film [SEP] is bad . [SEP]"]
    assert row.label == 1
    batch = stack([row], family=MULTIPLE_CHOICE, batch_size=2, length=8, pad_id=0)
    assert batch.token_ids.shape == (2, 2, 8)


def test_the_labels_of_multiple_choice_are_the_numbers_of_its_choices():
    config = task("multiple_choice", text="sent", text_pair="one, two")
    given = record(sent="a", one="b", two="c", label=2)
    with pytest.raises(DataError, match="file:7: label is '2'; accepted: 0, 1$"):
        MULTIPLE_CHOICE.parse(given, config, MULTIPLE_CHOICE.label_names([], config))
    for labels in (("0", "1", "2"), ("0",)):
        with pytest.raises(ConfigError, match="task.labels is .'0'.*; accepted: 2, one for each"):
            MULTIPLE_CHOICE.parse(given, config, labels)
