"""Batches depend only on seed and step, and not on hosts, threads or restarts."""

import dataclasses
import json
import random
import re
import shutil
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource

from bert_jax.data.batch import ONE_HOST, Host
from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.data.passport import load_passport
from bert_jax.data.pipeline import (
    ReadPlan,
    TrainingSource,
    evaluation_batches,
    training_batches,
)
from bert_jax.data.preparation.engines import Engine
from bert_jax.data.preparation.prepare import prepare_data
from bert_jax.data.records import write_records
from bert_jax.data.tokenizers.wordpiece import SPECIAL_PIECES, WordPiece
from bert_jax.errors import DataError

TOKENIZER = WordPiece(
    pieces=(*SPECIAL_PIECES, ".", *(f"w{i}" for i in range(120))), lower_case=True
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Prepared data from thirty documents with distinct sentences."""
    directory = tmp_path_factory.mktemp("data")
    rng = random.Random(0)
    documents = [
        "\n".join(
            " ".join(f"w{i}" for i in rng.sample(range(120), k=rng.randint(4, 9))) + "."
            for _ in range(15)
        )
        for _ in range(30)
    ]
    (directory / "corpus.txt").write_text("\n\n".join(documents) + "\n")
    config = DataConfig(
        directory=str(directory / "prepared"),
        corpus=f"text:{directory}/corpus.txt",
        batch_size=8,
        sequence_length=32,
        dupe_factor=1,
        held_out_fraction=0.2,
        train_shards=3,
        masking=MaskingConfig(max_predictions=6),
        evaluation_masking=MaskingConfig(max_predictions=5),
    )
    prepare_data(config, tokenizer=TOKENIZER, engine=Engine())
    return config


@pytest.fixture(scope="module")
def packed(config):
    """The same documents with up to three pairs in a row, whole-word masking and a falling rate."""
    changed = dataclasses.replace(
        config,
        directory=f"{config.directory}-packed",
        batch_size=16,
        sequence_length=48,
        pairs_per_row=3,
        dupe_factor=4,
        short_sequence_probability=0.5,
        masking=MaskingConfig(
            unit="word", rate=0.3, rate_points=((0.5, 0.15), (0.5, 0.05)), max_predictions=14
        ),
        evaluation_masking=MaskingConfig(max_predictions=8),
    )
    prepare_data(changed, tokenizer=TOKENIZER, engine=Engine())
    return changed


def plan_of(config, **changes):
    return ReadPlan(config=config, **{"seed": 3, "num_steps": 12} | changes)


def train(config, *, first_step=0, host=ONE_HOST, threads=2, **plan):
    plan = plan_of(config, **plan)
    return list(training_batches(plan, first_step=first_step, host=host, threads=threads))


def evaluate(config, **changes):
    return list(evaluation_batches(config, **{"batch_size": 8} | changes))


def join_hosts(batches_of_hosts):
    """Concatenates the batches of all hosts to global batches, in the order of the processes."""
    return [
        type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))
        for parts in zip(*batches_of_hosts, strict=True)
    ]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for name, left, right in zip(one._fields, one, other, strict=True):
            assert left.dtype == right.dtype and np.array_equal(left, right), name


def texts(batch):
    """Returns the unmasked tokens of each row as bytes, without filler rows."""
    token_ids = batch.token_ids.copy()
    rows, slots = np.nonzero(batch.mask_weights)
    token_ids[rows, batch.mask_positions[rows, slots]] = batch.mask_labels[rows, slots]
    real = batch.padding_mask.any(axis=1)
    return [row.tobytes() for row in token_ids[real]]


def num_examples(config, split):
    return load_passport(config.directory)["splits"][split]["examples"]


def num_steps_of(config, epochs):
    return -(-epochs * num_examples(config, "train") // config.batch_size)


@pytest.mark.parametrize("hosts", [2, 4])
def test_any_number_of_hosts_gets_the_same_global_batches(config, hosts):
    steps = num_steps_of(config, 2)
    whole = train(config, num_steps=steps)
    parts = [train(config, num_steps=steps, host=Host((host,), hosts)) for host in range(hosts)]
    assert parts[0][0].token_ids.shape == (8 // hosts, 32)
    assert_same(join_hosts(parts), whole)


def test_the_parts_of_a_host_need_not_be_neighbours(config):
    """On a 4 x 4 slice of v5e with mesh.data=16, the first host holds the parts 0, 1, 6 and 15."""
    whole = train(config)
    outer, inner = (train(config, host=Host(parts, 4)) for parts in ((0, 3), (1, 2)))
    for batch, first, second in zip(whole, outer, inner, strict=True):
        for rows, outside, inside in zip(batch, first, second, strict=True):
            joined = np.concatenate([outside[:2], inside, outside[2:]])
            assert np.array_equal(rows, joined)


def test_a_host_reads_no_records_of_other_hosts(config, monkeypatch):
    """The records that four hosts read in an epoch are disjoint, and together are all records."""
    read, get = [], ArrayRecordDataSource.__getitems__

    def spy(source, keys):
        read[-1].extend(keys)
        return get(source, keys)

    monkeypatch.setattr(ArrayRecordDataSource, "__getitems__", spy)
    count = num_examples(config, "train")
    for host in range(4):
        read.append([])
        plan = plan_of(config, num_steps=count // 8)
        assert len(list(TrainingSource(plan, host=Host((host,), 4)))) == count // 8
        assert len(read[-1]) == 2 * (count // 8)
        read.append([])
        list(evaluation_batches(config, batch_size=8, host=Host((host,), 4)))
    for records, total in (
        (read[0::2], 8 * (count // 8)),
        (read[1::2], num_examples(config, "eval")),
    ):
        together = [record for own in records for record in own]
        assert len(together) == len(set(together)) == total


@pytest.mark.parametrize("hosts", [2, 4, 16])
def test_packed_rows_and_falling_rates_do_not_depend_on_hosts_or_restarts(packed, hosts):
    steps = num_steps_of(packed, 2)
    whole = train(packed, num_steps=steps)
    assert {batch.cls_positions.shape for batch in whole} == {(16, 3)}
    assert max(batch.pack_ids.max() for batch in whole) == 3
    for first_step in (0, steps // 2 + 1):  # the second value is a restart with other hosts
        parts = [
            train(packed, first_step=first_step, num_steps=steps, host=Host((host,), hosts))
            for host in range(hosts)
        ]
        assert_same(join_hosts(parts), whole[first_step:])


def test_the_rate_follows_the_step(packed):
    steps = 20
    token = dataclasses.replace(packed, masking=dataclasses.replace(packed.masking, unit="token"))
    for step, batch in enumerate(train(token, num_steps=steps)):
        rate = 0.3 - 0.3 * step / steps if step < steps / 2 else 0.05
        wanted = [max(1, round(int(n) * rate)) for n in batch.padding_mask.sum(axis=1)]
        assert batch.mask_weights.sum(axis=1).tolist() == wanted


def test_the_rate_follows_the_steps_of_the_whole_run_in_a_second_phase(packed):
    rates = ((0.5, 0.2), (0.5, 0.05))  # a jump at step 10 of 20
    masking = dataclasses.replace(packed.masking, unit="token", rate_points=rates)
    token = dataclasses.replace(packed, masking=masking)
    for batch, rate in zip(
        train(token, num_steps=4, steps_before=8, run_steps=20),
        (0.22, 0.21, 0.05, 0.05),
        strict=True,
    ):
        wanted = [max(1, round(int(n) * rate)) for n in batch.padding_mask.sum(axis=1)]
        assert batch.mask_weights.sum(axis=1).tolist() == wanted


def test_evaluation_has_single_pairs_and_a_constant_rate(packed):
    batches = evaluate(packed)
    alone = dataclasses.replace(
        packed, directory=f"{packed.directory}-alone", pairs_per_row=1, masking=MaskingConfig()
    )
    prepare_data(alone, tokenizer=TOKENIZER, engine=Engine())
    assert_same(evaluate(alone), batches)
    assert batches[0].cls_positions.shape == (8, 1)
    assert batches[0].pack_ids.max() == 1


def test_a_restart_at_any_step_changes_nothing(config):
    steps = num_steps_of(config, 1) + 3
    whole = train(config, num_steps=steps)
    for first_step in (1, 5, steps - 4, steps - 1):
        assert_same(train(config, first_step=first_step, num_steps=steps), whole[first_step:])
    assert train(config, first_step=steps, num_steps=steps) == []


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_threads_change_nothing(config, threads):
    assert_same(train(config, threads=threads), train(config))


def test_random_access_gives_the_same_batches(config):
    source = TrainingSource(plan_of(config))
    assert len(source) == 12
    assert_same(list(islice(source, 13)), train(config))
    with pytest.raises(IndexError, match="batch is -1; accepted: 0 to 11"):
        source[-1]


def test_each_epoch_visits_every_record_once_in_its_own_order(config):
    count = num_examples(config, "train")
    assert count % config.batch_size, "an epoch should end within a batch"
    stream = [
        text for batch in train(config, num_steps=num_steps_of(config, 3)) for text in texts(batch)
    ]
    epochs = [stream[epoch * count : (epoch + 1) * count] for epoch in range(3)]
    assert len(set(epochs[0])) == count
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_a_record_has_another_mask_in_each_epoch_unless_masks_are_static(config):
    count = num_examples(config, "train")

    def repeated(masking):
        masks = {}
        changed = dataclasses.replace(config, masking=masking)
        for batch in train(changed, num_steps=num_steps_of(config, 2)):
            for text, positions in zip(texts(batch), batch.mask_positions.tolist(), strict=True):
                masks.setdefault(text, []).append(tuple(positions))
        same = [found[0] == found[1] for found in masks.values() if len(found) >= 2]
        assert len(same) == count
        return sum(same)

    # A mask has two or three of about 25 words, so at most about 1 of 300 is equal by chance.
    assert repeated(config.masking) < 0.05 * count + 3
    assert repeated(dataclasses.replace(config.masking, static=True)) == count


def test_a_seed_changes_order_and_masks_but_not_the_next_epoch(config):
    first = [text for batch in train(config, seed=3) for text in texts(batch)]
    second = [text for batch in train(config, seed=4) for text in texts(batch)]
    assert first != second
    # The second epoch of a seed must differ from the first epoch of the next seed.
    count = num_examples(config, "train")
    source = TrainingSource(plan_of(config, seed=3))
    other = TrainingSource(plan_of(config, seed=4))
    epoch_1 = [index for _, index in source.addresses(range(count, 2 * count))]
    epoch_0 = [index for _, index in other.addresses(range(count))]
    assert sorted(epoch_1) == sorted(epoch_0) == list(range(count))
    assert epoch_1 != epoch_0


def test_held_out_texts_are_not_trained_on(config):
    training = {
        text for batch in train(config, num_steps=num_steps_of(config, 1)) for text in texts(batch)
    }
    held_out = {text for batch in evaluate(config) for text in texts(batch)}
    assert len(training) == num_examples(config, "train")
    assert len(held_out) == num_examples(config, "eval")
    assert not training & held_out


def test_evaluation_masks_do_not_depend_on_batch_size_or_training_masks(config):
    whole = evaluate(config)
    other = dataclasses.replace(config, masking=MaskingConfig(rate=0.4))
    assert_same(evaluate(other), whole)
    assert whole[0].mask_positions.shape == (8, 5)
    count = num_examples(config, "eval")
    larger = join_hosts([[batch] for batch in evaluate(config, batch_size=16)])
    smaller = join_hosts([[batch] for batch in whole])
    for one, other in zip(larger[0], smaller[0], strict=True):
        assert np.array_equal(one[:count], other[:count])


@pytest.mark.parametrize("hosts", [2, 4])
def test_every_host_evaluates_the_same_number_of_batches(config, hosts):
    whole = evaluate(config)
    parts = [evaluate(config, host=Host((host,), hosts)) for host in range(hosts)]
    assert len({len(part) for part in parts}) == 1
    assert_same(join_hosts(parts), whole)


def test_the_last_evaluation_batch_is_filled_with_rows_of_weight_0(config):
    count = num_examples(config, "eval")
    batches = evaluate(config, batch_size=count - 1)
    assert [batch.token_ids.shape[0] for batch in batches] == [count - 1] * 2
    fillers = type(batches[1])(*(array[1:] for array in batches[1]))
    assert (fillers.token_ids == TOKENIZER.pad_id).all()
    assert not any(array.any() for array in fillers[1:])
    assert batches[1].mask_weights[0].any() and batches[1].pair_weights[0].all()


@pytest.mark.parametrize("hosts", [1, 3])
def test_evaluation_batches_are_filled_up_to_the_parts_of_the_mesh(hosts, config):
    """Six parts of two rows hold a batch of eight rows, and four rows are filler."""
    own = [tuple(range(6))[i * 6 // hosts : (i + 1) * 6 // hosts] for i in range(hosts)]
    filled = join_hosts([evaluate(config, host=Host(parts, 6)) for parts in own])
    for batch, whole in zip(filled, evaluate(config), strict=True):
        assert batch.token_ids.shape == (12, 32)
        fillers = type(batch)(*(array[8:] for array in batch))
        assert not any(array.any() for array in fillers[1:])
        for one, other in zip(batch, whole, strict=True):
            assert np.array_equal(one[:8], other)


def test_max_examples_takes_records_evenly(config):
    count = num_examples(config, "eval")
    everything = [text for batch in evaluate(config) for text in texts(batch)]
    some = [text for batch in evaluate(config, max_examples=5) for text in texts(batch)]
    assert some == [everything[int(i * count / 5)] for i in range(5)]
    assert_same(evaluate(config, max_examples=10 * count), evaluate(config))


@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_record_names_its_shard(number, config, tmp_path):
    """The shard is damaged after its hash was checked; undamaged records are still read."""
    damaged = dataclasses.replace(config, directory=str(tmp_path / "data"))
    shutil.copytree(config.directory, damaged.directory)
    shards = sorted((tmp_path / "data").glob("train-*.array_record"))
    with open(shards[number], "r+b") as stream:
        stream.seek(200)  # within the first records, after the header of the file
        stream.write(bytes(8))
    with pytest.raises(DataError, match=f"/{shards[number].name} is damaged .Corrupt") as error:
        train(damaged)
    assert "\n" not in str(error.value)
    assert_same(evaluate(damaged), evaluate(config))
    source = TrainingSource(plan_of(damaged))
    whole = TrainingSource(plan_of(config))
    read = 0
    for step in range(12):
        try:
            assert_same([source[step]], [whole[step]])
            read += 1
        except DataError:
            pass
    assert 0 < read < 12


def test_a_shard_that_is_cut_while_it_is_open_gives_no_empty_rows(config, tmp_path):
    """array_record returns b"" beyond the end of the file."""
    cut = dataclasses.replace(config, directory=str(tmp_path / "data"))
    shutil.copytree(config.directory, cut.directory)
    source = TrainingSource(plan_of(cut))
    assert len(source[0].token_ids)
    for shard in (tmp_path / "data").glob("train-*.array_record"):
        with open(shard, "r+b") as stream:
            stream.truncate(0)
    with pytest.raises(DataError, match=r"train-.* is damaged \(record \d+ has 0 bytes; accepted"):
        source[1]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (b"", "record 3 has 0 bytes; accepted: a positive multiple of 2"),
        (b"\1\0\2", "record 3 has 3 bytes; accepted: a positive multiple of 2"),
        (b"\1\0", "record 3 has 1 numbers, but its pairs take 4; accepted"),
        (b"\1\0\2\0\0\0\7\0", "record 3 has 4 numbers, but its pairs take 6; accepted"),
        (b"\1\0\0\0\0\0\xff\xff", "record 3 has the id 65535; accepted: below "),
        (b"\1\0\1\0\2\0\6\0\6\0", "record 3 has the label 2; accepted: 0 or 1"),
        (b"\x1f\0\0\0\0\0" + 31 * b"\6\0", "record 3 has 1 pairs and 33 tokens; accepted: at "),
        (2 * b"\1\0\0\0\0\0\6\0", "record 3 has 2 pairs and 6 tokens; accepted: at most 1 "),
    ],
    ids=[
        *("empty", "half-a-number", "short-header", "short-text", "beyond-the-vocabulary"),
        *("no-label", "too-long", "too-many-pairs"),
    ],
)
def test_a_record_that_is_not_whole_is_named(record, said, config, tmp_path):
    damaged = dataclasses.replace(config, directory=str(tmp_path / "data"))
    shutil.copytree(config.directory, damaged.directory)
    (shard,) = (tmp_path / "data").glob("eval-*.array_record")
    records = ArrayRecordDataSource([str(shard)]).__getitems__(range(5))
    passport = json.loads((tmp_path / "data" / "passport.json").read_text())
    passport["splits"]["eval"]["shards"][0] |= {
        "examples": 5,
        "sha256": write_records([*records[:3], record, records[4]], path=shard),
    }
    (tmp_path / "data" / "passport.json").write_text(json.dumps(passport))
    with pytest.raises(DataError, match=re.escape(said)) as error:
        evaluate(damaged)
    assert f"{shard} is damaged" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"torn", bytes(2**17)])
def test_the_error_names_a_shard_that_cannot_be_opened(content, config, tmp_path):
    shutil.copytree(config.directory, tmp_path / "data")
    shard = tmp_path / "data" / "train-00001-of-00003.array_record"
    shard.write_bytes(content)
    with pytest.raises(DataError, match=f"{shard.name} is damaged .*run the prepare command again"):
        TrainingSource(plan_of(dataclasses.replace(config, directory=str(tmp_path / "data"))))


def test_errors_are_raised_at_the_call_and_name_the_value(config, tmp_path):
    with pytest.raises(DataError, match="batch_size is 8; accepted: a multiple of the 3 parts"):
        training_batches(plan_of(config), host=Host((0,), 3))
    with pytest.raises(DataError, match="max_examples is 0"):
        evaluation_batches(config, batch_size=8, max_examples=0)
    with pytest.raises(DataError, match="holds no prepared data"):
        training_batches(plan_of(dataclasses.replace(config, directory=str(tmp_path))))
    other = dataclasses.replace(config, dupe_factor=2)
    with pytest.raises(DataError, match=r"data\.dupe_factor 1, not 2"):
        training_batches(plan_of(other))
