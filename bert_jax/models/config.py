"""Model configs: the sizes of BERT, and options for what differs between implementations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from msgspec import Meta

from bert_jax.config import PositiveFloat, PositiveInt, check_bounds
from bert_jax.errors import require

DropoutBits = Literal["hash", "threefry"]
Pooling = Literal["cls", "pooled", "mean", "max", "last4"]
"""Names of the vectors that represent a text; `bert_jax.models.pooling` describes each."""


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """A BERT encoder; the defaults are BERT-base as published (Devlin et al. 2018).

    An experiment may have another encoder: a subclass that overrides `build`, and `forward_flops`
    if its number of products differs. The other parts of the package use the fields and methods of
    this class, and no other property of a model.
    """

    vocab_size: PositiveInt = 30522
    """Number of pieces in the vocabulary."""
    vocab_multiple: PositiveInt = 128
    """The token table gets more rows than `vocab_size`, up to a multiple of this number. Matrix
    units of TPUs are 128 wide, and `mesh.tensor` must divide the number of rows."""
    hidden_size: PositiveInt = 768
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 12
    intermediate_size: PositiveInt | None = None
    """Width of the feed-forward block; null is 4 x `hidden_size`."""
    max_positions: PositiveInt = 512
    num_segments: PositiveInt = 2
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Dropout rate after the embeddings, the attention output and the feed-forward output."""
    attention_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Dropout rate of the attention probabilities."""
    attention: Literal["einsum", "splash", "cudnn"] = "einsum"
    """`einsum`: matrix products, on every device. `splash` and `cudnn`: kernels for TPUs and NVIDIA
    GPUs that store no probabilities; both need `attention_dropout` 0. `splash` needs rows of a
    multiple of 128 tokens. `cudnn` needs `dtype` bfloat16, a head width of a multiple of 8 up to
    128, and one pair a row. `cudnn` has not run on a GPU yet."""
    dropout_bits: DropoutBits = "hash"
    """Source of dropout's random bits. `hash`: a hash of each element's index, computed again in
    the backward pass. `threefry`: an array from jax's generator (as in config formats 1 and 2)."""
    activation: Literal["gelu_erf", "gelu_tanh", "relu", "silu"] = "gelu_erf"
    """Form of GELU, or another function. The released checkpoints and Hugging Face use erf;
    google-research/bert uses tanh today."""
    layer_norm_epsilon: PositiveFloat = 1e-12
    initializer: Literal["truncated_normal", "normal"] = "truncated_normal"
    """Distribution of initial weights. `truncated_normal` is cut at two standard deviations
    (Google). `normal` is not cut (Hugging Face, NVIDIA)."""
    initializer_stddev: PositiveFloat = 0.02
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products. Parameters, softmax, LayerNorm and losses are
    float32."""
    scan_layers: bool | None = None
    """Whether one layer is compiled and run in a loop. This compiles faster and changes only
    rounding. null: a loop on GPUs and TPUs if there are at least 12 layers, and no loop on CPUs."""
    remat: Literal["none", "full"] = "none"
    """Rematerialization. With `full`, the backward pass computes every layer again from the layer's
    input. This stores less, takes about a third more FLOPs, and changes only rounding."""

    biases: ClassVar[bool] = True
    """Whether dense layers and LayerNorm have biases."""
    pair_head: ClassVar[bool] = True
    """Whether there are a pooler and a head for pairs (`objective.next_sentence`)."""

    def __post_init__(self):
        check_bounds(self, "model")
        size, heads, rate = self.hidden_size, self.num_heads, self.attention_dropout
        require(
            not size % heads, "model.hidden_size", size, f"a multiple of model.num_heads {heads}"
        )
        kernel = f"with model.attention={self.attention}"
        if self.attention != "einsum":
            no_dropout = f"0 {kernel}, because the kernel has no dropout"
            require(not rate, "model.attention_dropout", rate, no_dropout)
        if self.attention == "cudnn":
            require(self.dtype == "bfloat16", "model.dtype", self.dtype, f"bfloat16 {kernel}")
            fits = self.head_dim % 8 == 0 and self.head_dim <= 128
            width = "model.hidden_size / model.num_heads"
            require(fits, width, self.head_dim, f"a multiple of 8 up to 128 {kernel}")

    def build(self, rules: Any = None) -> Any:
        """Returns the encoder, a flax module. The heads and their losses are not a part of it.

        It has the inputs of `models.bert.Bert`, returns an `EncoderOutput`, and its
        `embeddings.token_table` is the table that the masked-token head shares. `rules` are the
        experiment's `ShardingRules`, or None on one device.
        """
        from bert_jax.models.bert import Bert  # which imports this module

        return Bert(self, rules)

    def forward_flops(self, pair_lengths: Sequence[int]) -> float:
        """Returns the FLOPs of the layers for pairs of these lengths in tokens, without heads.

        A multiply-add of a matrix product is 2 FLOPs. Nothing else is counted.
        """
        hidden, mlp = self.hidden_size, self.feed_forward_size
        projections = sum(pair_lengths) * 2 * (4 * hidden**2 + 2 * hidden * mlp)
        attention = 4 * hidden * sum(length**2 for length in pair_lengths)
        return self.num_layers * (projections + attention)

    def layers_loop(self, platform: str) -> bool:
        """Returns `scan_layers`, or whether the layers run in a loop on a platform of jax.

        On a CPU, an update with a loop is slower.
        """
        if self.scan_layers is None:
            return platform != "cpu" and self.num_layers >= 12
        return self.scan_layers

    @property
    def residual(self) -> Self:
        """The config of the dense layers whose outputs are added to the residual stream."""
        return self

    @property
    def idle_parameters(self) -> int:
        """Number of stored parameters that have no effect, padding of the vocabulary excepted."""
        return 0

    @property
    def feed_forward_size(self) -> int:
        """Width of the feed-forward block: `intermediate_size`, or by default 4 x `hidden_size`."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token table: `vocab_size` rounded up to a multiple of `vocab_multiple`."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple


@dataclass(frozen=True, kw_only=True)
class ModernConfig(BertConfig):
    """The encoder of `models.modern`; the defaults are ModernBERT-base (Warner et al. 2024).

    It has no biases, no embeddings of positions and segments, and no pair loss.
    """

    vocab_size: PositiveInt = 50368
    num_layers: PositiveInt = 22
    intermediate_size: PositiveInt | None = 1152
    """Width of each of the two halves of the feed-forward block; null is 4 x `hidden_size`."""
    max_positions: PositiveInt = 8192
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Dropout rate after the embeddings, and within the feed-forward block."""
    attention_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Dropout rate of the attention probabilities and of the attention output."""
    layer_norm_epsilon: PositiveFloat = 1e-5
    global_every: PositiveInt = 3
    """Every so many layers, from the first, a query attends to all tokens of its pair."""
    local_window: Annotated[int, Meta(ge=2, le=2**31 - 1)] = 128
    """In the other layers, a query attends to this many tokens around it: half on each side."""
    global_theta: PositiveFloat = 160_000.0
    """Base of the wavelengths of the rotary positions in the layers with global attention."""
    local_theta: PositiveFloat = 10_000.0
    """The same for the other layers."""

    biases = False
    pair_head = False

    def __post_init__(self):
        super().__post_init__()
        require(self.attention == "einsum", "model.attention", self.attention, "einsum")
        even = "an even number, for rotary positions"
        require(self.head_dim % 2 == 0, "model.hidden_size / model.num_heads", self.head_dim, even)

    def build(self, rules: Any = None) -> Any:
        from bert_jax.models.modern import Modern  # which imports this module

        return Modern(self, rules)

    def forward_flops(self, pair_lengths: Sequence[int]) -> float:
        """See `BertConfig`. In layers with local attention, only keys in the window count."""
        hidden, mlp, side = self.hidden_size, self.feed_forward_size, self.local_window // 2
        projections = sum(pair_lengths) * 2 * (4 * hidden**2 + 3 * hidden * mlp)
        pairs = [(length, min(side, length - 1)) for length in pair_lengths]
        whole = -(-self.num_layers // self.global_every)  # number of layers with global attention
        keys = whole * sum(length**2 for length in pair_lengths)
        keys += (self.num_layers - whole) * sum(n * (2 * k + 1) - k * (k + 1) for n, k in pairs)
        return self.num_layers * projections + 4 * hidden * keys

    @property
    def idle_parameters(self) -> int:
        return self.hidden_size  # the first layer has no LayerNorm before attention

    @property
    def residual(self) -> Self:  # it starts with smaller weights
        return replace(
            self, initializer_stddev=self.initializer_stddev / (2 * self.num_layers) ** 0.5
        )


@dataclass(frozen=True, kw_only=True)
class TaskHeadConfig:
    """The output layer of a fine-tuning task."""

    family: str
    """Name of the task family; see bert_jax.tasks.families.registry."""
    labels: tuple[str, ...]
    """Names of the labels in the order of their numbers. Empty for a family without labels."""
    outputs: int
    """Number of logits."""
    unit: Literal["text", "token"]
    """'text' gives logits for each row; 'token' gives logits for each position of a row."""
    representation: str
    """Name of the layer's input; see `bert_jax.tasks.config.TaskConfig`."""
    dropout: bool = True
    """Whether dropout at the encoder's rate is applied before the layer (default: True). It is
    False for question answering."""
