"""Builds `tfds:sotu`, the embedded corpus in array_record files, without TensorFlow."""

from collections.abc import Iterator

import tensorflow_datasets as tfds

from bert_jax.data.sources.embedded import LICENCE, read_addresses


class Sotu(tfds.core.GeneratorBasedBuilder):
    """State of the Union addresses 1790-2021, in order of time."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, file_format="array_record", **arguments):
        # TFDS needs TensorFlow to write its default format, tfrecord.
        super().__init__(file_format=file_format, **arguments)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            license=LICENCE,
            disable_shuffling=True,
            features=tfds.features.FeaturesDict(
                {"name": tfds.features.Text(), "text": tfds.features.Text()}
            ),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator:
        for number, address in enumerate(read_addresses()):
            yield number, {"name": address.name, "text": address.text}
