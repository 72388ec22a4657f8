"""Rates and updates equal those of published code, which is transcribed here in float64.

Each transcription has separate variables with TensorFlow-like names, as the sources have. The
stacked layers of bert_jax are thus compared with separate layers.
"""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax.training.optim import OptimizerConfig, learning_rate_schedule, make_optimizer

# ---- Learning rates ----------------------------------------------------------------------------


def google_rate(step, *, rate, steps, warmup, start=0, power=1.0):
    """create_optimizer of google-research/bert and, with `start`, of mlcommons/training."""
    decayed = rate * (1 - min(step, steps) / steps) ** power
    return rate * (step - start) / warmup if step - start < warmup else decayed


def hugging_face_rate(step, *, rate, steps, warmup):
    """transformers: get_linear_schedule_with_warmup."""
    if step < warmup:
        return rate * step / max(1, warmup)
    return rate * max(0.0, (steps - step) / max(1, steps - warmup))


def nvidia_rate(step, *, rate, steps, fraction, degree=0.5):
    """DeepLearningExamples: PolyWarmUpScheduler. Its step counts from 1."""
    progress = (step + 1) / steps
    if progress < fraction:
        return rate * progress / fraction
    return rate * (1 - progress) ** degree


def rates(config, *, steps):
    schedule = learning_rate_schedule(config, steps=steps)
    return np.array([float(schedule(jnp.int32(step))) for step in range(steps)])


def test_the_rate_equals_googles():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10)
    expected = [google_rate(step, rate=2.0, steps=100, warmup=10) for step in range(100)]
    # Float32 roundings of 6e-8 in numbers up to 2.
    np.testing.assert_allclose(rates(config, steps=100), expected, rtol=0, atol=1e-6)


def test_the_rate_equals_mlperfs():
    """Training starts at 76 / 287 of the rate, and at step 211 the rate falls to 389 / 600."""
    config = OptimizerConfig(learning_rate=0.00288293, warmup_steps=287, warmup_start=-76)
    found = rates(config, steps=600) / 0.00288293
    expected = [
        google_rate(step, rate=1.0, steps=600, warmup=287, start=-76) for step in range(600)
    ]
    # Float32 roundings of 6e-8 in numbers up to 1, some of them differences.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert found[[0, 210, 211]] == pytest.approx([76 / 287, 286 / 287, 389 / 600], abs=1e-6)


def test_the_rate_equals_hugging_faces_without_a_jump():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10, decay_from="warmup_end")
    found = rates(config, steps=100)
    expected = [hugging_face_rate(step, rate=2.0, steps=100, warmup=10) for step in range(100)]
    # Float32 roundings of 6e-8 in numbers up to 2.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert found.max() == found[10] == 2.0
    assert np.abs(np.diff(found)).max() == pytest.approx(0.2)  # the slope of the warm-up


def test_the_rate_equals_nvidias():
    """The first of 7038 updates has the rate of step 1, the last one 0."""
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=2001, first_step=1, power=0.5)
    found = rates(config, steps=7038)
    expected = [nvidia_rate(step, rate=1.0, steps=7038, fraction=0.2843) for step in range(7038)]
    # 0.2843 of 7038 is 2000.9. Whole steps make the warm-up slower by 4.8e-5 and end it at the
    # same update. One step more or less would change the rate by 5e-4 there.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)
    # Without a rounded fraction, float32 rounding is 6e-8, which the root near 0 makes 4e-6.
    np.testing.assert_allclose(found[2000:], expected[2000:], rtol=0, atol=1e-5)
    assert found[0] == pytest.approx(1 / 2001) and found[-1] == 0


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_rate_after_the_last_step_is_zero_and_a_number(power):
    config = OptimizerConfig(warmup_steps=2, power=power)
    assert learning_rate_schedule(config, steps=10)(13) == 0


# ---- Updates -----------------------------------------------------------------------------------


def excluded(name):
    """The sources' list of parameters without decay, which also have no trust ratio."""
    return re.search("LayerNorm|layer_norm|bias", name) is not None


def norm(values):
    return np.sqrt(sum((value**2).sum() for value in values))


def ratio(param, update):
    return norm([param]) / norm([update]) if norm([param]) > 0 and norm([update]) > 0 else 1.0


def clip_by_global_norm(gradients):
    """tf.clip_by_global_norm(1.0). FusedLAMB also divides by the norm if it is above 1."""
    scale = 1.0 / max(norm(gradients.values()), 1.0)
    return {name: scale * gradient for name, gradient in gradients.items()}


def moments(state, name, gradient, *, beta1, beta2):
    m, v = state.get(name, (0.0, 0.0))
    state[name] = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
    return state[name]


def google_adamw(params, gradients, state, *, rate, **_):
    """google-research/bert: AdamWeightDecayOptimizer.apply_gradients."""
    for name, gradient in clip_by_global_norm(gradients).items():
        m, v = moments(state, name, gradient, beta1=0.9, beta2=0.999)
        update = m / (np.sqrt(v) + 1e-6)
        if not excluded(name):
            update = update + 0.01 * params[name]
        params[name] = params[name] - rate * update


def torch_adamw(params, gradients, state, *, rate, step, groups=True):
    """torch: clip_grad_norm_(1.0), then AdamW(eps=1e-8, weight_decay=0.01), decay first."""
    scale = min(1.0 / (norm(gradients.values()) + 1e-6), 1.0)
    for name, gradient in gradients.items():
        m, v = moments(state, name, scale * gradient, beta1=0.9, beta2=0.999)
        decay = 0.0 if groups and excluded(name) else 0.01
        decayed = params[name] * (1 - rate * decay)
        denominator = np.sqrt(v) / np.sqrt(1 - 0.999 ** (step + 1)) + 1e-8
        params[name] = decayed - rate / (1 - 0.9 ** (step + 1)) * m / denominator


def torch_adamw_of_all(*arguments, **named):
    """`AdamW(model.parameters())` without parameter groups, so every parameter decays."""
    torch_adamw(*arguments, **named, groups=False)


def albert_lamb(params, gradients, state, *, rate, **_):
    """google-research/albert: LAMBOptimizer.apply_gradients."""
    for name, gradient in clip_by_global_norm(gradients).items():
        m, v = moments(state, name, gradient, beta1=0.9, beta2=0.999)
        update = m / (np.sqrt(v) + 1e-6)
        if not excluded(name):
            update = update + 0.01 * params[name]
            rate_of_tensor = rate * ratio(params[name], update)
        else:
            rate_of_tensor = rate
        params[name] = params[name] - rate_of_tensor * update


def mlperf_lamb(params, gradients, state, *, rate, step):
    """mlcommons/training: lamb_optimizer_v1 with the hyperparameters of the TPU submission."""
    for name, gradient in clip_by_global_norm(gradients).items():
        m, v = moments(state, name, gradient, beta1=0.88, beta2=0.88)
        correction = 1 - 0.88 ** (step + 1)
        update = (m / correction) / (np.sqrt(v / correction) + 1e-6)
        if not excluded(name):
            update = update + 0.0166629 * params[name]
            update = ratio(params[name], update) * update
        params[name] = params[name] - rate * update


def fused_lamb(params, gradients, state, *, rate, step, use_nvlamb=False):
    """apex: multi_tensor_lamb.cu, decoupled mode, grad averaging; two groups of parameters."""
    for name, gradient in clip_by_global_norm(gradients).items():
        decay = 0.0 if excluded(name) else 0.01
        m, v = moments(state, name, gradient, beta1=0.9, beta2=0.999)
        unbiased_m, unbiased_v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
        update = unbiased_m / (np.sqrt(unbiased_v) + 1e-6) + decay * params[name]
        adapted = use_nvlamb or decay != 0
        params[name] -= (rate * ratio(params[name], update) if adapted else rate) * update


def nvlamb(*arguments, **named):
    """apex with `use_nvlamb=True`; the MLPerf v0.7 submission in JAX has the same formula."""
    fused_lamb(*arguments, **named, use_nvlamb=True)


CORRECTED = {"bias_correction": True}
# name: (transcription of the update, its settings)
SOURCES = {
    "google_adamw": (google_adamw, {}),
    "torch_adamw": (torch_adamw, CORRECTED | {"epsilon": 1e-8}),
    "torch_adamw_of_all": (
        torch_adamw_of_all,
        CORRECTED | {"epsilon": 1e-8, "decay_excludes": "nothing"},
    ),
    "albert_lamb": (albert_lamb, {"name": "lamb"}),
    "mlperf_lamb": (
        mlperf_lamb,
        CORRECTED | {"name": "lamb", "beta1": 0.88, "beta2": 0.88, "weight_decay": 0.0166629},
    ),
    "fused_lamb": (fused_lamb, CORRECTED | {"name": "lamb"}),
    "nvlamb": (nvlamb, CORRECTED | {"name": "lamb", "trust_ratio": "all"}),
}
NUM_LAYERS, STEPS, RATE = 3, 24, 0.05
UPDATES = 20
# 20 float32 updates of numbers up to 6, with an ulp of 5e-7. Measured differences are 9e-7, and
# 2.5e-6 with bias correction, because 1 - 0.999 ** n loses digits in the first updates.
TOLERANCE = 1e-5


def config_of(source):
    return OptimizerConfig(learning_rate=RATE, warmup_steps=5, **SOURCES[source][1])


def random_tree(rng, scale):
    """Returns parameters named as in bert_jax. The segment table has as many rows as layers."""

    def normal(*shape):
        return (scale * rng.normal(size=shape)).astype(np.float32)

    def layer_norm(*lead):
        return {"scale": normal(*lead, 4), "bias": normal(*lead, 4)}

    # Layers have different norms, so their trust ratios differ from the ratio of the stack.
    kernel = normal(NUM_LAYERS, 4, 5) * np.float32([0.3, 1, 3])[:, None, None]
    return {
        "bert": {
            "embeddings": {
                "token": normal(7, 4),
                "segment": normal(NUM_LAYERS, 4),
                "layer_norm": layer_norm(),
            },
            "layers": {
                "intermediate": {"kernel": kernel, "bias": normal(NUM_LAYERS, 5)},
                "layer_norm": layer_norm(NUM_LAYERS),
            },
        },
        "masked_token_head": {"bias": normal(7)},
    }


def separate(tree):
    """Returns the same tree with a separate subtree for each layer."""
    bert = dict(tree["bert"])
    stacked = bert.pop("layers")
    for index in range(NUM_LAYERS):
        bert[f"layer_{index}"] = jax.tree.map(lambda leaf, i=index: leaf[i], stacked)
    return tree | {"bert": bert}


def by_name(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def variables(tree):
    """Returns float64 variables by name, with separate layers."""
    return by_name(separate(tree))


def first_params_and_gradients():
    """Gradient norms are from 0.01 to 100: some are clipped, and epsilon matters for others."""
    rng = np.random.default_rng(0)
    params = random_tree(rng, 1.0)
    return params, [random_tree(rng, 10.0 ** rng.uniform(-3, 1)) for _ in range(UPDATES)]


def run(config, params, gradients):
    optimizer = make_optimizer(config, learning_rate_schedule(config, steps=STEPS))

    @jax.jit
    def update(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for gradient in gradients:
        params, state = update(params, state, gradient)
    return params


def run_transcription(source, params, gradients):
    state, current = {}, variables(params)
    for step, gradient in enumerate(gradients):
        rate = google_rate(step, rate=RATE, steps=STEPS, warmup=5)
        SOURCES[source][0](current, variables(gradient), state, rate=rate, step=step)
    return current


def difference(some, others):
    assert some.keys() == others.keys()
    return max(np.abs(some[name] - others[name]).max() for name in some)


@pytest.mark.parametrize("source", SOURCES)
def test_twenty_updates_equal_those_of_the_source(source):
    params, gradients = first_params_and_gradients()
    clipped = sum(float(optax.tree.norm(gradient)) > 1 for gradient in gradients)
    assert 5 <= clipped <= 15
    found = variables(run(config_of(source), params, gradients))
    expected = run_transcription(source, params, gradients)
    assert difference(found, expected) < TOLERANCE


def test_the_sources_differ_by_much_more_than_the_tolerance():
    """Otherwise the test above could not distinguish them."""
    params, gradients = first_params_and_gradients()
    ends = {source: run_transcription(source, params, gradients) for source in SOURCES}
    for some, other in itertools.combinations(SOURCES, 2):
        assert difference(ends[some], ends[other]) > 100 * TOLERANCE, (some, other)


@pytest.mark.parametrize("source", SOURCES)
def test_stacked_layers_are_updated_like_separate_layers(source):
    params, gradients = first_params_and_gradients()
    stacked = variables(run(config_of(source), params, gradients))
    apart = run(config_of(source), separate(params), [separate(tree) for tree in gradients])
    # The same float32 operations, but norms are summed in another order, with an ulp of 1.2e-7.
    assert difference(stacked, by_name(apart)) < 5e-6


def test_lamb_of_all_parameters_equals_optax_lamb():
    params, gradients = first_params_and_gradients()
    params, gradients = separate(params), [separate(tree) for tree in gradients]
    config = OptimizerConfig(
        name="lamb", bias_correction=True, decay_excludes="nothing", trust_ratio="all"
    )
    ours = make_optimizer(config, optax.constant_schedule(RATE))
    theirs = optax.chain(
        optax.clip_by_global_norm(1.0), optax.lamb(RATE, eps=1e-6, weight_decay=0.01)
    )
    updates = [
        jax.jit(optimizer.update)(gradients[0], optimizer.init(params), params)[0]
        for optimizer in (ours, theirs)
    ]
    for some, other in zip(*map(jax.tree.leaves, updates), strict=True):
        # Rounding of one float32 update of numbers of order 1.
        np.testing.assert_allclose(some, other, rtol=1e-6, atol=0)
