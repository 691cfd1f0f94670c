"""What the size of the data decides, and what it leaves alone."""

import pytest

from trainer.command_line.help import help_text
from trainer.config.parser import parse_config
from trainer.config.resolved import resolve
from trainer.config.schema import Config
from trainer.config.size_defaults import with_fixed_values, with_size_defaults


def sized(*options: str, users: int = 943, items: int = 1682, interactions: int = 80_000) -> Config:
    return with_size_defaults(parse_config(options), users, items, interactions)


@pytest.mark.parametrize(
    ("users", "size"),
    # 4 sqrt(943) = 123 = 2^6.9, 4 sqrt(6040) = 311 = 2^8.3, 4 sqrt(138,493) = 1489 = 2^10.5,
    # 4 sqrt(10^7) = 12,649 = 2^13.6, beyond the limit of 8192; and 4 is below that of 16.
    [(1, 16), (943, 128), (6040, 256), (138_493, 2048), (10_000_000, 8192)],
)
def test_a_step_has_about_four_times_the_root_of_all_rows(users, size) -> None:
    assert sized(users=users).batches.size == size
    by_interaction = sized("--batches.rows", "interaction", users=1, interactions=users)
    assert by_interaction.batches.size == size


def test_wide_tables_and_sampled_candidates_come_with_large_data() -> None:
    small = sized()
    assert (small.model.dim, small.loss.candidates, small.optimizer.name) == (128, "catalogue", "adam")
    large = sized(users=1_000_000, items=200_000, interactions=50_000_000)
    assert (large.model.dim, large.loss.candidates, large.optimizer.name) == (
        256,
        "sampled",
        "rowwise_adagrad",
    )
    assert (small.loss.samples, large.loss.samples) == (None, 8192)


@pytest.mark.parametrize(
    ("interactions", "users", "epochs"),
    # 30 up to a million; 30 sqrt(1/10) = 9.5; 30 sqrt(1/100) = 3. With 943 users an epoch has 8 steps, and
    # 320 steps are 40 epochs.
    [(80_000, 943, 40), (1_000_000, 6040, 30), (10_000_000, 70_000, 9), (100_000_000, 500_000, 3)],
)
def test_epochs_fall_with_the_root_of_the_interactions(interactions, users, epochs) -> None:
    assert sized(users=users, interactions=interactions).run.epochs == epochs


def test_adam_is_for_small_tables_of_user_rows_that_are_not_cut_into_columns() -> None:
    assert sized().optimizer.name == "adam"
    assert sized("--sharding.kind", "column_wise").optimizer.name == "rowwise_adagrad"
    assert sized("--batches.rows", "interaction").optimizer.name == "rowwise_adagrad"
    # (131,071 + 1) x 128 = 2^24 values are the most.
    assert sized(users=131_071, items=1).optimizer.name == "adam"
    assert sized(users=131_072, items=1).optimizer.name == "rowwise_adagrad"


def test_hashed_tables_are_as_small_as_their_rows_whatever_the_number_of_ids() -> None:
    # 2 x 65,536 x 128 = 2^24 values are the most.
    users = 10_000_000
    assert sized("--model.hashed_rows", "65536", users=users).optimizer.name == "adam"
    assert sized("--model.hashed_rows", "65537", users=users).optimizer.name == "rowwise_adagrad"


def test_learning_rates_belong_to_the_optimizer_and_a_tables_own_stands_beside_them() -> None:
    rowwise = sized("--optimizer.name", "rowwise_adagrad", "--optimizer.table_learning_rates.item", "0.3")
    assert rowwise.optimizer.learning_rate == 0.1
    assert rowwise.optimizer.table_learning_rates == {"item": 0.3, "item_bias": 0.01}
    given = sized("--optimizer.name", "rowwise_adagrad", "--optimizer.learning_rate", "0.3")
    assert (given.optimizer.learning_rate, given.optimizer.table_learning_rates) == (0.3, {})


def test_a_validation_part_is_measured_twenty_times_with_patience_for_ten() -> None:
    assert (sized().run.evaluate_every, sized().run.patience) == (0, 0)
    run = sized("--data.validation_size", "0.1").run
    assert (run.epochs, run.evaluate_every, run.patience) == (40, 2, 10)


def test_what_is_given_stays() -> None:
    options = (
        "--batches.rows user --batches.size 7 --model.history none --model.user_id true --model.dim 12 "
        "--model.popularity_prior 0.5 --loss.candidates sampled --loss.samples 3 --run.epochs 2 "
        "--run.evaluate_every 0 --run.patience 0 --optimizer.name sgd --optimizer.learning_rate 0.5 "
        "--model.temperature 0.3 --model.low_rank 8 --model.low_rank_weight 2 --model.low_rank_penalty 9"
    )
    given = parse_config(options.split())
    assert with_fixed_values(with_size_defaults(given, 943, 1682, 80_000)) == resolve(given)


# Stated in the help of each option, and computed here at the sizes on either side of each limit.
STATED = {
    "batches.size": ("16 to 8,192", lambda: (sized(users=1).batches.size, sized(users=10**9).batches.size)),
    "model.dim": (
        "default 128, from 300,000 interactions 256",
        lambda: (sized(interactions=299_999).model.dim, sized(interactions=300_000).model.dim),
    ),
    "loss.candidates": (
        "up to 20,000",
        lambda: (sized(items=20_000).loss.candidates, sized(items=20_001).loss.candidates),
    ),
    "loss.samples": ("8,192", lambda: (sized(items=20_001).loss.samples,)),
    "run.epochs": (
        "30 but at least 320 steps, fewer from 1,000,000 interactions",
        # A million users of as many rows a step as there are make 245 steps an epoch; 128 of 943 make 8.
        lambda: (
            sized(users=10**6, interactions=10**6).run.epochs,
            sized(users=943).run.epochs * 8,
            sized(users=10**6, interactions=1_200_000).run.epochs,
        ),
    ),
    "run.evaluate_every": ("20 of them", lambda: (validated().run.epochs // validated().run.evaluate_every,)),
    "run.patience": ("by default 10", lambda: (validated().run.patience,)),
}
COMPUTED = {
    "batches.size": (16, 8192),
    "model.dim": (128, 256),
    "loss.candidates": ("catalogue", "sampled"),
    "loss.samples": (8192,),
    "run.epochs": (30, 320, 27),
    "run.evaluate_every": (20,),
    "run.patience": (10,),
}


def validated() -> Config:
    return sized("--data.validation_size", "0.1")


@pytest.mark.parametrize("key", STATED)
def test_help_states_the_defaults_that_are_computed(key: str) -> None:
    words, compute = STATED[key]
    assert compute() == COMPUTED[key]
    assert words in " ".join(help_text().split())
