from pathlib import Path

import pytest

from trainer.api.options import options_of
from trainer.config.parser import parse_config


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("data.name", "ml-100k", "ml-100k"),
        ("model.dim", 32, 32),
        ("optimizer.learning_rate", 1e-05, 1e-05),
        ("run.tensorboard", False, False),
        ("data.min_value", None, None),
        ("evaluation.k", (5, 10), [5, 10]),
        ("model.item_features", ["genres"], ["genres"]),
        ("data.root", Path("a folder"), "a folder"),
    ],
)
def test_a_value_arrives_as_it_was_given(key: str, value: object, kept: object) -> None:
    config = parse_config(options_of({key: value}))
    section, name = key.split(".")
    assert getattr(getattr(config, section), name) == kept


def test_a_mapping_is_an_option_an_entry() -> None:
    files = {"data.item_vectors": {"cover": Path("covers.npy"), "text": "texts.npy"}}
    assert options_of(files) == [
        *("--data.item_vectors.cover", "covers.npy"),
        *("--data.item_vectors.text", "texts.npy"),
    ]
