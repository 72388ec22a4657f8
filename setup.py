"""Package metadata; requirements.txt pins the versions that are tested."""

from pathlib import Path

from setuptools import find_packages, setup

JAX = ">=0.10.2,<0.13"

setup(
    name="bert_jax",
    version="0.1.0",
    description="Pretraining BERT in JAX and Flax, with every number traceable",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # With package_dir, an editable install adds the clone to sys.path. The import hook that
    # setuptools writes otherwise loses to a clone named bert_jax in the working directory.
    package_dir={"": "."},
    packages=find_packages(include=["bert_jax", "bert_jax.*"]),
    package_data={
        "bert_jax.audit": ["*.html"],
        "bert_jax.data": ["embedded/*", "languages.txt"],
        "bert_jax.new": ["*.txt"],
        "bert_jax.planning": ["*.txtpb"],
        "bert_jax.sweeps": ["page.html", "page.js"],
    },
    entry_points={"console_scripts": ["bert_jax = bert_jax.__main__:main"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.3",
        "array_record>=0.8",
        "flax>=0.12,<0.13",
        "fsspec>=2025.1",
        "google-crc32c>=1.5",
        "grain>=0.2.18,<0.3",
        f"jax{JAX}",
        "jaxtyping>=0.3",
        "ml_dtypes>=0.5",
        "msgpack>=1.0",
        "msgspec>=0.20",
        "numpy>=2",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "protobuf>=5",
        "rich>=14",
        "safetensors>=0.5",
        "scipy>=1.14",
        "sentencepiece>=0.2",
        "sentencex>=1.0",
        "tensorboard>=2.20",
        "tensorboardX>=2.6",
        "tensorstore>=0.1.75",
    ],
    extras_require={
        "tpu": [f"jax[tpu]{JAX}"],
        "cuda12": [f"jax[cuda12]{JAX}"],
        "cuda13": [f"jax[cuda13]{JAX}"],
        # Parquet and TensorFlow Datasets; TFDS does not say that it needs importlib_resources.
        "corpora": ["importlib_resources", "pyarrow>=18", "tensorflow-datasets>=4.9.10,<5"],
        # Corpora of the Hugging Face Hub.
        "hub": ["huggingface_hub>=1,<3"],
        # Paths of gs://, in Google Cloud Storage.
        "gcs": ["gcsfs>=2025.1"],
        # For an environment of its own: it asks for older protobuf and pyarrow than the rest.
        "beam": ["apache-beam>=2.77,<3"],
        "dask": ["distributed"],
        # The compilers of `plan`: libtpu, and the CUDA plugin without CUDA. The installed jax names
        # their versions. Neither needs a device.
        "plan": [f"jax[tpu]{JAX}"],
        "plan-gpu": [f"jax[cuda12-local]{JAX}"],
        # The pages of `prepare --audit` and `report`.
        "audit": ["jinja2>=3.1", "matplotlib>=3.9", "scikit-learn>=1.5"],
        # data.tokenizer=file:tokenizer.json, and models with such a tokenizer.
        "tokenizers": ["tokenizers>=0.22,<0.24"],
        # What fine-tuning is measured with.
        "tasks": ["scikit-learn>=1.5"],
        "test": [
            *("gcp-storage-emulator", "gcsfs", "hypothesis", "import-linter"),
            *("ipykernel", "jupyterlab-language-pack-fi-FI", "kubernetes-validate"),
            *("nbclient", "nbformat", "psutil", "pyright", "pytest", "pytest-xdist", "ruff"),
        ],
        "notebook": ["jupyterlab", "matplotlib"],
    },
)
