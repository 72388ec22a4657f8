"""The masking rate as a function of the step, and invalid values of a data config."""

import pytest

from bert_jax.data.config import DataConfig, MaskingConfig
from bert_jax.errors import ConfigError


def rates(config, *progress):
    return [round(config.at(share).rate, 9) for share in progress]


def test_a_rate_without_points_is_constant():
    config = MaskingConfig(rate=0.3, max_predictions=40)
    assert config.at(0.0) == config.at(0.7) == config


def test_the_rate_is_linear_between_points_and_constant_after_the_last():
    config = MaskingConfig(rate=0.3, rate_points=((0.5, 0.1), (0.75, 0.2)), max_predictions=40)
    assert rates(config, 0.0, 0.25, 0.5, 0.625, 0.75, 0.9) == [0.3, 0.2, 0.1, 0.15, 0.2, 0.2]
    assert config.at(0.25) == MaskingConfig(rate=config.at(0.25).rate, max_predictions=40)


def test_two_points_at_one_step_make_a_jump():
    steps = ((0.5, 0.3), (0.5, 0.15), (0.8, 0.15), (0.8, 0.05))
    config = MaskingConfig(rate=0.3, rate_points=steps, max_predictions=40)
    assert rates(config, 0.0, 0.499999, 0.5, 0.79, 0.8, 0.999) == [0.3, 0.3, 0.15, 0.15, 0.05, 0.05]
    immediate = MaskingConfig(rate=0.3, rate_points=((0.0, 0.2),), max_predictions=40)
    assert rates(immediate, 0.0, 0.5) == [0.2, 0.2]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rate_points": ((0.5, 0.0),)}, r"rate_points is \(\(0.5, 0.0\),\); .* rate in \(0, 1\]"),
        ({"rate_points": ((0.5, float("nan")),)}, "masking.rate_points is .*nan.*accepted: finite"),
        ({"rate_points": ((0.5, 0.1), (0.4, 0.1))}, "accepted: ascending shares from 0 to 1"),
        ({"rate_points": ((1.5, 0.1),)}, "accepted: ascending shares from 0 to 1"),
        ({"rate_points": ((float("nan"), 0.1),)}, "accepted: finite numbers"),
        ({"unit": "span", "count": "drawn"}, "accepted: 'rounded', 'floored'"),
    ],
)
def test_invalid_masking_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        MaskingConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"masking": MaskingConfig(rate=0.15, rate_points=((0.5, 0.4),), max_predictions=20)},
            "data.masking.rate 0.4 of 128 tokens; accepted: at least 51",
        ),
        (
            {"evaluation_masking": MaskingConfig(rate_points=((1.0, 0.1),))},
            "data.evaluation_masking.rate_points is .* the same at every step",
        ),
        ({"language": "dee"}, r"data.language is 'dee'; did you mean de.* \(codes of ISO 639-1\)"),
        ({"language": "FI"}, r"data.language is 'FI'; did you mean fi \(codes of ISO 639-1\)"),
        ({"language": "Finnish"}, r"data.language is 'Finnish'; did you mean fi \(Finnish\)"),
        ({"language": "klingon"}, "data.language is 'klingon'; accepted: a code of two letters"),
        ({"language": ""}, "data.language is ''; accepted: aa, ab, "),
        (
            {"tokenizer": "sentencepiece", "strip_accents": True},
            "data.strip_accents is True with data.tokenizer 'sentencepiece', .* accepted: null",
        ),
        ({"pairs_per_row": 0}, "data.pairs_per_row is 0; accepted: 1 to 2147483647"),
    ],
)
def test_invalid_data_settings_are_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        DataConfig(directory="data", corpus="embedded:sotu", **fields)
