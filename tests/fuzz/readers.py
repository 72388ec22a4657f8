"""The readers of foreign files: how to write a small valid file, and how to read it.

A function imports what it needs, so that the parent process needs only the names.
"""

import base64
import bz2
import functools
import gzip
import io
import json
import lzma
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GOLDENS = Path(__file__).parents[1] / "goldens"


@dataclass(frozen=True)
class Reader:
    write: Callable[[Path], Path]
    """Writes valid files into an empty directory and returns the file to damage."""
    read: Callable[[Path], object]
    """Reads the file, and the files beside it."""
    form: str = ""
    """'json' or 'jsonl': the file is also damaged by its structure."""
    unpack: Callable[[bytes], bytes] | None = None
    """Returns the inner part of the file that a checksum or a length protects."""
    pack: Callable[[bytes, bytes], bytes] | None = None
    """Returns the file with another inner part."""
    inner_form: str = ""


# ---- Weights of other implementations ------------------------------------------------------------


def copied(name: str) -> Callable[[Path], Path]:
    """Returns a function that copies the folder of a golden file, and returns the copy."""

    def write(directory: Path) -> Path:
        shutil.copytree(GOLDENS / Path(name).parent, directory, dirs_exist_ok=True)
        return directory / Path(name).name

    return write


def write_safetensors(directory: Path) -> Path:
    import numpy as np
    import safetensors.numpy

    tensors = {"a": np.ones((2, 3), np.float32), "b": np.zeros((0, 2), np.float16)}
    safetensors.numpy.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory / "model.safetensors"


def read_safetensors(file: Path) -> object:
    from bert_jax.interop.tensor_files import read_safetensors

    return read_safetensors(file)


def unpack_safetensors(content: bytes) -> bytes:
    return content[8 : 8 + struct.unpack("<Q", content[:8])[0]]


def pack_safetensors(content: bytes, header: bytes) -> bytes:
    tensors = content[8 + len(unpack_safetensors(content)) :]
    return struct.pack("<Q", len(header)) + header + tensors


def write_shards(directory: Path) -> Path:
    import numpy as np

    from bert_jax.interop.tensor_files import write_safetensors

    tensors = {"a": np.ones((2, 3), np.float32), "b": np.zeros((0, 2), np.float16)}
    write_safetensors(directory, tensors | {"c": tensors["a"]}, shard_bytes=8)
    return directory / "model.safetensors.index.json"


def read_weights(file: Path) -> object:
    from bert_jax.interop.tensor_files import read_weights

    return {name: tensor.sum() for name, tensor in read_weights(file).items()}


def read_torch(file: Path) -> object:
    from bert_jax.interop.torch_files import read_torch

    return {name: tensor.sum() for name, tensor in read_torch(file).items()}


def unpack_torch(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(next(name for name in archive.namelist() if "data.pkl" in name))


def pack_torch(content: bytes, pickled: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if "data.pkl" in name else old.read(name))
    return packed.getvalue()


def read_bundle(file: Path) -> object:
    from bert_jax.interop.tensorflow import read_bundle

    return read_bundle(file.with_name("bert_model.ckpt"))


def pack_bundle(content: bytes, damaged: bytes) -> bytes:
    """Returns a damaged index whose blocks have the checksums of their content."""
    from bert_jax.interop import tensorflow

    damaged = bytearray(damaged)
    footer = content[-tensorflow.FOOTER_SIZE :]
    _, start = tensorflow._block_handle(footer, 0)
    index, _ = tensorflow._block_handle(footer, start)
    blocks = [tensorflow._block_handle(h, 0)[0] for _, h in tensorflow._read_block(content, *index)]
    for offset, size in [index, *blocks]:
        checksum = tensorflow._masked_checksum(bytes(damaged[offset : offset + size + 1]))
        damaged[offset + size + 1 : offset + size + 5] = checksum.to_bytes(4, "little")
    return bytes(damaged)


def read_huggingface_config(file: Path) -> object:
    from bert_jax.interop.source import read_config

    return read_config(file)


def write_huggingface_tokenizer(name: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        from bert_jax.data.tokenizers.wordpiece import WordPiece
        from bert_jax.interop.tokenizer_files import tokenizer_json

        pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd", "##e")
        tokenizer = WordPiece(pieces=pieces, lower_case=True)
        description = tokenizer_json(tokenizer)
        added = {"1": {"content": "[UNK]", "special": True}}
        config = {"do_lower_case": True, "added_tokens_decoder": added, "pad_token": "[PAD]"}
        (directory / "tokenizer.json").write_text(json.dumps(description))
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
        (directory / "vocab.txt").write_text("\n".join(pieces) + "\n")
        if name == "vocab.txt":
            (directory / "tokenizer.json").unlink()
        return directory / name

    return write


def write_modernbert(name: str) -> Callable[[Path], Path]:
    """Writes a ModernBERT of two layers. Its config has the fields of old and new releases."""

    def write(directory: Path) -> Path:
        import numpy as np
        import safetensors.numpy

        write_huggingface_tokenizer("vocab.txt")(directory)
        sizes = {"vocab_size": 10, "hidden_size": 4, "intermediate_size": 6, "norm_eps": 1e-5}
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "local_attention": 4}
        rope = {"rope_type": "default", "rope_theta": 1e4}
        new = {
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": rope, "sliding_attention": rope},
        }
        old = {"global_attn_every_n_layers": 2, "embedding_dropout": 0.0, "mlp_dropout": 0.0}
        config = {"model_type": "modernbert", **sizes, **layers, **new, **old}
        (directory / "config.json").write_text(json.dumps(config))
        shapes = {"attn.Wqkv": (12, 4), "attn.Wo": (4, 4), "mlp.Wi": (12, 4), "mlp.Wo": (4, 6)}
        shapes = {f"layers.{n}.{name}": shape for n in (0, 1) for name, shape in shapes.items()}
        shapes["embeddings.tok_embeddings"] = (10, 4)
        tensors = {f"model.{key}.weight": np.ones(shapes[key], np.float32) for key in shapes}
        safetensors.numpy.save_file(tensors, directory / "model.safetensors")
        return directory / name

    return write


def read_huggingface(file: Path) -> object:
    from bert_jax.interop.huggingface import read_huggingface

    source = read_huggingface(file.parent)
    return source.config, {name: tensor.sum() for name, tensor in source.tensors.items()}


def read_huggingface_tokenizer(file: Path) -> object:
    from bert_jax.interop.tokenizer_files import read_tokenizer

    return use(read_tokenizer(file.parent)[0])


# ---- Tokenizers ----------------------------------------------------------------------------------


def use(tokenizer) -> object:
    encoding = tokenizer.encode_with_offsets("abc déf 文字")
    return tokenizer.decode(tokenizer.encode("abc déf 文字")), encoding, tokenizer.fingerprint()


@functools.cache
def sentencepiece_model() -> bytes:
    from collections import Counter

    from bert_jax.data.tokenizers.train_sentencepiece import train_sentencepiece

    counts = Counter({word: 9 for word in "the then there here hers these this that abc".split()})
    return train_sentencepiece(counts, vocab_size=18, lower_case=True).model


def write_sentencepiece(directory: Path) -> Path:
    (directory / "spiece.model").write_bytes(sentencepiece_model())
    return directory / "spiece.model"


def read_sentencepiece(file: Path) -> object:
    from bert_jax.data.tokenizers.sentencepiece import SentencePiece

    return use(SentencePiece.from_model_file(file))


def write_tokenizer(kind: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        from bert_jax.data.tokenizers.files import save_tokenizer
        from bert_jax.data.tokenizers.sentencepiece import SentencePiece
        from bert_jax.data.tokenizers.wordpiece import WordPiece

        pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd", "##e")
        wordpiece = WordPiece(pieces=pieces, lower_case=True)
        models = {"wordpiece": lambda: wordpiece, "sentencepiece": sentencepiece_tokenizer}
        del SentencePiece
        save_tokenizer(models[kind](), directory)
        return directory / "tokenizer.json"

    return write


def sentencepiece_tokenizer():
    from bert_jax.data.tokenizers.sentencepiece import SentencePiece

    return SentencePiece(model=sentencepiece_model())


def read_tokenizer(file: Path) -> object:
    from bert_jax.data.tokenizers.files import load_tokenizer

    return use(load_tokenizer(file))


def write_library_tokenizer(name: str) -> Callable[[Path], Path]:
    """Writes a byte-level BPE, as a `tokenizer.json` of the library or as ours."""

    def write(directory: Path) -> Path:
        import tokenizers
        from tokenizers import decoders, models, pre_tokenizers, trainers

        from bert_jax.data.tokenizers.files import save_tokenizer
        from bert_jax.data.tokenizers.huggingface import HuggingFace

        library = tokenizers.Tokenizer(models.BPE())
        library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
        trainer = trainers.BpeTrainer(vocab_size=40, special_tokens=special, show_progress=False)
        library.train_from_iterator(["the then there here abc déf"] * 9, trainer)
        tokenizer = HuggingFace.from_content(json.loads(library.to_str()))
        if name == "tokenizer.json":
            save_tokenizer(tokenizer, directory)
        else:
            (directory / name).write_text(library.to_str())
        return directory / name

    return write


def read_library_tokenizer(file: Path) -> object:
    from bert_jax.data.tokenizers.huggingface import HuggingFace

    return use(HuggingFace.from_file(file))


def write_added_tokens(name: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        write_huggingface_tokenizer("vocab.txt")(directory)
        (directory / "added_tokens.json").write_text('{"new": 10, "[E1]": 11}')
        special = {"additional_special_tokens": ["[E1]"], "pad_token": "[PAD]"}
        (directory / "special_tokens_map.json").write_text(json.dumps(special))
        return directory / name

    return write


def unpack_model(content: bytes) -> bytes:
    return base64.b64decode(json.loads(content)["model"])


def pack_model(content: bytes, model: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"model": base64.b64encode(model).decode()}).encode()


# ---- Runs ----------------------------------------------------------------------------------------


def write_run(name: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        from bert_jax.config import load_experiment, to_json
        from bert_jax.files import sha256_of_file

        experiment = load_experiment(Path(__file__).parents[2] / "experiments" / "quickstart.py")
        step = directory / "checkpoints" / "8"
        (step / "position").mkdir(parents=True)
        (step / "state" / "d").mkdir(parents=True)
        (step / "state" / "d" / "a").write_bytes(b"array")
        (step / "position" / "metadata").write_text('{"digests": true, "seconds": 1.5}')
        names = ("state/d/a", "position/metadata")
        digests = {name: sha256_of_file(step / name) for name in names}
        (step / "digests.json").write_text(json.dumps({"format_version": 1, "sha256": digests}))
        (directory / "config.json").write_text(json.dumps(to_json(experiment)))
        rows = [{"step": step, "train/loss": 1 / step} for step in (1, 2, 3)]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return directory / name

    return write


def read_metrics(file: Path) -> object:
    from bert_jax.faults.run_files import read_rows

    return read_rows(file)


def read_config(file: Path) -> object:
    from bert_jax import command

    return command.load(str(file))


def read_step(file: Path) -> object:
    from bert_jax.faults.damage import check_step

    return check_step(next(p.parent for p in file.parents if p.name == "checkpoints"), 8)


def write_fine_tuned(name: str) -> Callable[[Path], Path]:
    """Writes a directory of finetune, and a seed that has no checkpoint."""

    def write(directory: Path) -> Path:
        from bert_jax.config import to_json
        from bert_jax.runs.fine_tuned import write_fine_tuning
        from bert_jax.tasks.config import FineTuningConfig, TaskConfig

        sets = {"train": "tsv:train.tsv", "dev": "tsv:dev.tsv", "test": "tsv:test.tsv"}
        task = TaskConfig(family="question_answering", representation="last", **sets)
        config, seed = FineTuningConfig(task=task), directory / "seed-3"
        seed.mkdir()
        if name.endswith("fine_tuning.json"):
            write_fine_tuning(seed, config, 0.25)
        (directory / "config.json").write_text(json.dumps(to_json(config)))
        (directory / "result.json").write_text('{"best_seed": 3, "labels": ["a", "b"]}')
        (seed / "result.json").write_text('{"seed": 3, "threshold": 0.25, "dev": {"f1": 0.5}}')
        return directory / name

    return write


def read_fine_tuned(file: Path) -> object:
    from bert_jax.runs.fine_tuned import best_seed, read_fine_tuning

    directory = file.parent.parent if file.parent.name == "seed-3" else file.parent
    return best_seed(directory), read_fine_tuning(directory / "seed-3")


# ---- Prepared data -------------------------------------------------------------------------------


@functools.cache
def prepared() -> Path:
    """A directory of prepared data that this process made."""
    from bert_jax.data.config import DataConfig
    from bert_jax.data.preparation.engines import Engine
    from bert_jax.data.preparation.prepare import prepare_data, train_vocabulary

    directory = Path(tempfile.mkdtemp())
    rng = random.Random(0)
    words = "the then there here hers these this that abc war peace".split()
    documents = ["\n".join(" ".join(rng.choices(words, k=9)) for _ in range(6)) for _ in range(40)]
    (directory / "corpus.txt").write_text("\n\n".join(documents))
    config = DataConfig(
        corpus=f"text:{directory}/corpus.txt",
        directory=str(directory / "data"),
        sequence_length=32,
        dupe_factor=1,
        held_out_fraction=0.2,
        train_shards=2,
    )
    tokenizer = train_vocabulary(config, vocab_size=40, engine=Engine())
    prepare_data(config, tokenizer=tokenizer, engine=Engine())
    return directory / "data"


def write_prepared(name: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        shutil.copytree(prepared(), directory, dirs_exist_ok=True)
        return directory / name

    return write


def read_prepared(file: Path) -> object:
    """Reads what the commands read: passport, records, token counts, and the audit's findings."""
    from bert_jax.audit.findings import find
    from bert_jax.data.passport import (
        check_files,
        load_passport,
        load_token_counts,
        majority_pair_label,
        passport_fingerprint,
    )
    from bert_jax.data.records import open_split

    passport = load_passport(file.parent)
    load_token_counts(file.parent).sum()
    for split in ("train", "eval"):
        source = open_split(file.parent, passport, split=split)
        source.rows(range(len(source)))
    find(passport, unused_share=0.0, shortcut=None)
    check_files(passport, file.parent, splits=("train", "eval"))
    return majority_pair_label(passport), passport_fingerprint(passport)


def read_statistics(file: Path) -> object:
    from bert_jax.data.passport import read_prepared
    from bert_jax.data.preparation.shards import ShardStatistics
    from bert_jax.data.preparation.summary import summarize

    found = read_prepared(file, ShardStatistics)
    return summarize(file.parent, training=[found], evaluation=[found])


def read_inputs(file: Path) -> object:
    from bert_jax.data.preparation.inputs import check_inputs

    whole = json.loads((prepared() / file.name).read_text())
    return check_inputs(file, whole, settings=whole["settings"])


def read_documents_file(file: Path) -> object:
    import numpy as np

    from bert_jax.files import read_array

    return read_array(file, dtype=np.uint64).sum()


# ---- Text ----------------------------------------------------------------------------------------

TEXTS = ["one two three\nfour five", "six", "wörd 文字 seven", "eight\nnine ten"]


def write_corpus(kind: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        file = directory / f"corpus.{kind}"
        jsonl = "".join(json.dumps({"text": text, "n": [1, {}]}) + "\n" for text in TEXTS)
        content = (jsonl if "jsonl" in kind else "\n\n".join(TEXTS)).encode()
        file.write_bytes(PACK.get(file.suffix, bytes)(content))
        return file

    return write


def pack_zstd(content: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(content, codec="zstd", asbytes=True)


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": functools.partial(gzip.compress, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": pack_zstd,
}


def pack_gzip(content: bytes, text: bytes) -> bytes:
    return gzip.compress(text, mtime=0)


def write_parquet(directory: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"id": list(range(len(TEXTS))), "text": TEXTS})
    parquet.write_table(table, directory / "corpus.parquet", row_group_size=2)
    return directory / "corpus.parquet"


def read_corpus(file: Path) -> object:
    from bert_jax.data.sources.corpora import read_documents

    return list(read_documents(f"{file.name.split('.')[1]}:{file}"))


def write_tfds(kind: str, name: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        import tensorflow_datasets as tfds
        from array_record.python.array_record_module import ArrayRecordWriter

        features = tfds.features.FeaturesDict(
            {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["a", "b"])}
        )
        records = [features.serialize_example({"text": text, "label": 1}) for text in TEXTS]
        file = directory / f"corpus-train.{kind}-00000-of-00001"
        if kind == "array_record":
            writer = ArrayRecordWriter(str(file), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        else:
            file.write_bytes(b"".join(struct.pack("<Q4x", len(r)) + r + bytes(4) for r in records))
        split = {
            "name": "train",
            "shardLengths": [str(len(TEXTS))],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }
        info = {"name": "corpus", "version": "1.0.0", "fileFormat": kind, "splits": [split]}
        (directory / "dataset_info.json").write_text(json.dumps(info))
        features.save_config(str(directory))
        return directory / (name or file.name)

    return write


def read_tfds(file: Path) -> object:
    from bert_jax.data.sources import tfds
    from bert_jax.data.sources.corpora import read_documents
    from bert_jax.tasks.readers.read import read_records

    tfds._builder.cache_clear()
    spec = f"tfds:{file.parent}"
    return list(read_documents(spec)), read_records(f"{spec}:train")


# ---- Sets of examples ----------------------------------------------------------------------------

CONLLU = "\t".join(str(i) for i in range(1, 11))
ANSWER = {"text": "two", "answer_start": 4}
SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "one two",
                    "qas": [
                        {"id": "a", "question": "what?", "answers": [ANSWER]},
                        {"id": "b", "question": "no?", "is_impossible": True, "answers": []},
                    ],
                }
            ]
        }
    ]
}
SETS = {
    "tsv": "text\tlabel\none\t1\ntwo\t0\n",
    "csv": 'text,label\n"one, two",1\nthree,0\n',
    "jsonl": '{"text": "one", "label": 1}\n{"text": "two", "label": "a"}\n',
    "conll": "one A\ntwo B\n\nthree A\n",
    "conllu": f"# text\n{CONLLU}\n{CONLLU}\n\n{CONLLU}\n",
    "squad": json.dumps(SQUAD),
}


def write_set(kind: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        (directory / f"set.{kind}").write_text(SETS[kind])
        return directory / f"set.{kind}"

    return write


def write_packed_set(ending: str) -> Callable[[Path], Path]:
    def write(directory: Path) -> Path:
        (directory / f"{ending}.tsv").write_bytes(PACK[f".{ending}"](SETS["tsv"].encode()))
        return directory / f"{ending}.tsv"

    return write


def read_set(file: Path) -> object:
    from bert_jax.tasks.readers.read import read_records
    from bert_jax.tasks.readers.records import fingerprint_records

    kind = file.suffix.removeprefix(".")
    columns = ("word", "tag") if kind == "conll" else ()
    records = read_records(f"{kind}:{file}", columns)
    return fingerprint_records(records)


READERS: dict[str, Reader] = {
    "safetensors": Reader(
        write_safetensors,
        read_safetensors,
        unpack=unpack_safetensors,
        pack=pack_safetensors,
        inner_form="json",
    ),
    "safetensors_index": Reader(write_shards, read_weights, "json"),
    "flax": Reader(copied("tiny_bert/flax_model.msgpack"), read_weights),
    "torch_zip": Reader(
        copied("huggingface/zip.bin"), read_torch, unpack=unpack_torch, pack=pack_torch
    ),
    "torch_legacy": Reader(copied("huggingface/legacy.bin"), read_torch),
    "tensorflow_index": Reader(
        copied("tf1/bert_model.ckpt.index"), read_bundle, unpack=bytes, pack=pack_bundle
    ),
    "tensorflow_data": Reader(copied("tf1/bert_model.ckpt.data-00000-of-00001"), read_bundle),
    "google_config": Reader(copied("tf1/bert_config.json"), read_huggingface_config, "json"),
    "huggingface_config": Reader(copied("tiny_bert/config.json"), read_huggingface_config, "json"),
    "modernbert_config": Reader(write_modernbert("config.json"), read_huggingface, "json"),
    "modernbert_weights": Reader(
        write_modernbert("model.safetensors"),
        read_huggingface,
        unpack=unpack_safetensors,
        pack=pack_safetensors,
        inner_form="json",
    ),
    **{
        f"huggingface_{name}": Reader(
            write_huggingface_tokenizer(name),
            read_huggingface_tokenizer,
            "json" if "json" in name else "",
        )
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    },
    "sentencepiece": Reader(write_sentencepiece, read_sentencepiece),
    "wordpiece_tokenizer.json": Reader(write_tokenizer("wordpiece"), read_tokenizer, "json"),
    "sentencepiece_tokenizer.json": Reader(
        write_tokenizer("sentencepiece"), read_tokenizer, "json", unpack_model, pack_model
    ),
    "library_tokenizer.json": Reader(
        write_library_tokenizer("mine.json"), read_library_tokenizer, "json"
    ),
    "huggingface_kind_tokenizer.json": Reader(
        write_library_tokenizer("tokenizer.json"), read_tokenizer, "json"
    ),
    **{
        name: Reader(write_added_tokens(name), read_huggingface_tokenizer, "json")
        for name in ("added_tokens.json", "special_tokens_map.json")
    },
    "config.json": Reader(write_run("config.json"), read_config, "json"),
    "checkpoint_position": Reader(write_run("checkpoints/8/position/metadata"), read_step, "json"),
    "checkpoint_digests": Reader(write_run("checkpoints/8/digests.json"), read_step, "json"),
    "metrics.jsonl": Reader(write_run("metrics.jsonl"), read_metrics, "jsonl"),
    **{
        f"fine_tuned_{name}": Reader(write_fine_tuned(name), read_fine_tuned, "json")
        for name in ("config.json", "result.json", "seed-3/result.json", "seed-3/fine_tuning.json")
    },
    "passport": Reader(write_prepared("passport.json"), read_prepared, "json"),
    "records": Reader(write_prepared("train-00000-of-00002.array_record"), read_prepared),
    "token_counts": Reader(write_prepared("token_counts.npy"), read_prepared),
    "documents": Reader(write_prepared("train-00000-of-00002.documents.npy"), read_documents_file),
    "shard_statistics": Reader(
        write_prepared("train-00000-of-00002.json"), read_statistics, "json"
    ),
    "corpus.json": Reader(write_prepared("corpus.json"), read_inputs, "json"),
    "text": Reader(write_corpus("text"), read_corpus),
    "text.gz": Reader(write_corpus("text.gz"), read_corpus, "", gzip.decompress, pack_gzip),
    **{
        f"text.{ending}": Reader(write_corpus(f"text.{ending}"), read_corpus)
        for ending in ("bz2", "xz", "zst")
    },
    "files": Reader(write_corpus("files"), read_corpus),
    "jsonl": Reader(write_corpus("jsonl"), read_corpus, "jsonl"),
    "jsonl.gz": Reader(
        write_corpus("jsonl.gz"), read_corpus, "", gzip.decompress, pack_gzip, "jsonl"
    ),
    "parquet": Reader(write_parquet, read_corpus),
    "tfds_array_record": Reader(write_tfds("array_record", ""), read_tfds),
    "tfrecord": Reader(write_tfds("tfrecord", ""), read_tfds),
    "tfds_features": Reader(write_tfds("tfrecord", "features.json"), read_tfds, "json"),
    "tfds_info": Reader(write_tfds("array_record", "dataset_info.json"), read_tfds, "json"),
    **{
        f"set_{kind}": Reader(
            write_set(kind), read_set, {"jsonl": "jsonl", "squad": "json"}.get(kind, "")
        )
        for kind in SETS
    },
    "set_gz": Reader(write_packed_set("gz"), read_set, "", gzip.decompress, pack_gzip),
    **{
        f"set_{ending}": Reader(write_packed_set(ending), read_set)
        for ending in ("bz2", "xz", "zst")
    },
    "set_parquet": Reader(write_parquet, read_set),
}
