"""Tuning on validation splits: the search, and what it may look at."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.config.parser import parse_config
from trainer.config.schema import Config
from trainer.config.size_defaults import with_size_defaults
from trainer.dataset.dataset import Dataset, open_dataset
from trainer.dataset.prepare import prepare_data
from trainer.distributed.world import join_world
from trainer.evaluation.evaluator import Protocol
from trainer.storage.tie_hashes import first_hashes, tie_hashes
from trainer.tuning import closed_form, learned
from trainer.tuning.closed_form import WEIGHTS, Mixture
from trainer.tuning.learned import LearnedTrials
from trainer.tuning.trials import best_of
from trainer.tuning.tuning import Choice, choose
from trainer.tuning.validation_splits import CUTS, VALIDATION_SIZE, Cut

OPTIONS = (
    "--data.name synthetic --data.synthetic_users 300 --data.synthetic_items 120 --model.dim 16 "
    "--data.synthetic_interactions 6000 --run.epochs 8 --device cpu"
)


def opened(folder: Path, *options: str) -> tuple[Config, Dataset]:
    config = parse_config([*OPTIONS.split(), "--data.cache", str(folder), *options])
    dataset = open_dataset(prepare_data(config.data))
    return with_size_defaults(config, dataset.user_count, dataset.item_count, len(dataset.train)), dataset


def chosen(folder: Path, *options: str) -> tuple[Config, Choice | None]:
    config, dataset = opened(folder, *options)
    with join_world("cpu", "gloo") as world:
        return choose(config, dataset, world)


def test_everything_open_is_chosen_by_the_best_figures(tmp_path) -> None:
    config, choice = chosen(tmp_path)
    assert choice is not None
    model = config.model
    best = best_of(choice.temperatures)
    assert model.temperature is not None
    assert best / math.sqrt(2) < model.temperature < best * math.sqrt(2)
    found = max(choice.mixtures, key=lambda mixture: choice.mixtures[mixture])
    assert model.low_rank == found.low_rank
    if found.low_rank:
        assert (model.low_rank_weight, model.low_rank_penalty) == (found.weight, best_of(choice.penalties))


def test_the_closed_form_alone_decides_its_width_and_mixtures_its_weight(tmp_path) -> None:
    _, choice = chosen(tmp_path, "--model.temperature", "0.2")
    assert choice is not None
    assert list(choice.widths) == [16, 24, 32, 64]  # there are 120 items
    width = max(choice.widths, key=lambda rank: choice.widths[rank])
    assert list(choice.mixtures) == [Mixture(), *(Mixture(width, weight) for weight in WEIGHTS)]


def test_with_many_interactions_widths_are_tried_upwards_until_they_fall(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(closed_form, "FEW_INTERACTIONS", 4000)
    monkeypatch.setattr(closed_form, "WIDE", (1, 2, 4, 8, 16, 32, 64))
    monkeypatch.setattr(closed_form, "FIRST_RANK", 2)
    _, choice = chosen(tmp_path, "--model.temperature", "0.2")
    assert choice is not None
    widths, figures = list(choice.widths), list(choice.widths.values())
    assert widths == [1, 2, 4, 8, 16, 32, 64][: len(widths)]
    assert 2 < len(widths) < 7  # forms wider than the first one were made, and the widest were not
    assert figures[:-1] == sorted(figures[:-1])
    assert figures[-1] < figures[-2]
    assert {mixture.low_rank for mixture in choice.mixtures} == {0, widths[-2]}


@pytest.mark.parametrize("share", [0.79, 0.81])
def test_a_kind_of_history_that_is_far_worse_at_first_is_tuned_no_further(
    share, tmp_path, monkeypatch, capsys
) -> None:
    score = LearnedTrials.score

    def scored(trials: LearnedTrials, temperature: float) -> float:
        score(trials, temperature)
        trials.scores[temperature] = share if trials.config.model.history == "recency" else 1.0
        return trials.scores[temperature]

    monkeypatch.setattr(LearnedTrials, "score", scored)
    options = [*OPTIONS.split(), "--data.cache", str(tmp_path), "--data.split", "temporal"]
    config = parse_config([*options, "--run.epochs", "2"])  # its history is open
    with join_world("cpu", "gloo") as world:
        config, choice = choose(config, open_dataset(prepare_data(config.data)), world)
    assert choice is not None
    assert list(choice.histories) == ["none", "recency"]
    dropped = share < 0.8
    assert (choice.histories["recency"] == share) == dropped
    names = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines() if "trial" in line]
    assert any(name.startswith("recency temperature") for name in names)
    assert any(name.startswith("penalty") for name in names)
    assert any(name.startswith("recency penalty") for name in names) != dropped


@pytest.mark.parametrize(("asked", "drawn"), [(4096, learned.TRIAL_SAMPLES), (64, 64)])
def test_a_trial_draws_no_more_samples_than_it_needs_beside_the_positives(
    asked, drawn, tmp_path, monkeypatch
) -> None:
    found, make = [], learned.make_batches

    def made(config, *given):
        found.append(config.loss.samples)
        return make(config, *given)

    monkeypatch.setattr(learned, "make_batches", made)
    options = ("--loss.candidates", "sampled", "--loss.samples", str(asked), "--model.low_rank", "0")
    config, choice = chosen(tmp_path, *options, "--run.epochs", "1")
    assert choice is not None
    assert set(found) == {drawn}
    assert config.loss.samples == asked  # the training itself draws what was asked for


def test_only_what_is_open_is_chosen(tmp_path) -> None:
    given = ("--model.temperature", "0.3")
    config, choice = chosen(tmp_path, *given, "--model.low_rank", "8")
    assert choice is not None
    assert (config.model.temperature, choice.temperatures) == (0.3, {})
    # A width that was given is not chosen away, whatever its weight does.
    assert config.model.low_rank == 8
    assert {mixture.low_rank for mixture in choice.mixtures} == set(choice.widths) == {8}
    fixed, nothing = chosen(tmp_path, *given, "--model.low_rank", "0")
    assert nothing is None
    assert (fixed.model.temperature, fixed.model.low_rank) == (0.3, 0)


def test_little_data_other_losses_and_a_switch_leave_fixed_values(tmp_path) -> None:
    for options in (
        ["--data.synthetic_interactions", "1500"],
        ["--run.choose", "false"],
        ["--loss.name", "bpr", "--batches.rows", "interaction"],
    ):
        config, choice = chosen(tmp_path, *options)
        assert choice is None
        assert (config.model.temperature, config.model.low_rank) == (0.2, 0)


def test_where_no_validation_split_can_be_cut_fixed_values_are_taken(tmp_path, monkeypatch) -> None:
    # So small a share of each user's items is none of them.
    monkeypatch.setattr("trainer.tuning.validation_splits.VALIDATION_SIZE", 1e-9)
    config, choice = chosen(tmp_path, "--data.split", "per_user")
    assert choice is None
    assert (config.model.temperature, config.model.low_rank) == (0.2, 0)


def test_the_test_split_is_never_looked_at(tmp_path, monkeypatch) -> None:
    held_out = Dataset.held_out

    def guarded(dataset: Dataset, split: str):
        assert split != "test"
        return held_out(dataset, split)

    monkeypatch.setattr(Dataset, "held_out", guarded)
    assert chosen(tmp_path)[1] is not None


def test_a_figure_is_the_mean_over_validation_splits(tmp_path) -> None:
    options = ("--model.temperature", "0.2", "--model.low_rank", "32", "--model.low_rank_penalty", "100")
    _, choice = chosen(tmp_path, *options)
    assert choice is not None
    config, dataset = opened(tmp_path, *options)
    config = replace(config, data=replace(config.data, validation_size=VALIDATION_SIZE))
    parts = [open_dataset(prepare_data(config.data, 42 + shift)) for shift in range(CUTS)]
    with join_world("cpu", "gloo") as world:
        alone = [choose(config, part, world)[1] for part in parts]
    assert choice.users == [users for each in alone if each for users in each.users]
    for found in (
        lambda each: each.widths[32],
        lambda each: each.mixtures[Mixture(32, WEIGHTS[0])],
    ):
        figure, *others = (found(each) for each in (choice, *alone) if each)
        assert len(set(others)) == CUTS
        assert figure == pytest.approx(sum(others) / CUTS)
    for part in parts:
        assert np.array_equal(part.test.users, dataset.test.users)
        assert np.array_equal(part.test.items, dataset.test.items)


def test_a_single_cut_is_enough_for_the_penalty(tmp_path) -> None:
    options = ("--model.temperature", "0.2", "--model.low_rank", "32")
    _, several = chosen(tmp_path, *options)
    config, _ = opened(tmp_path, *options)
    config = replace(config, data=replace(config.data, validation_size=VALIDATION_SIZE))
    with join_world("cpu", "gloo") as world:
        _, alone = choose(config, open_dataset(prepare_data(config.data)), world)
    assert several is not None
    assert alone is not None
    assert several.penalties == alone.penalties
    assert several.widths != alone.widths


@pytest.mark.parametrize(
    ("options", "cuts"),
    [
        (["--data.split", "per_user"], CUTS),
        (["--data.split", "temporal"], 1),
        (["--data.split", "leave_last_out"], 1),
    ],
)
def test_there_are_as_many_cuts_as_the_rule_of_the_split_can_draw(tmp_path, options, cuts) -> None:
    _, choice = chosen(tmp_path, *options)
    assert choice is not None
    assert len(choice.users) == cuts


def test_a_single_cut_is_enough_where_there_are_many_interactions(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("trainer.tuning.validation_splits.FEW_INTERACTIONS", 4000)
    _, choice = chosen(tmp_path)
    assert choice is not None
    assert len(choice.users) == 1


def test_a_single_cut_is_enough_for_the_temperature(tmp_path) -> None:
    everything, alone = (chosen(tmp_path, *options)[1] for options in ([], ["--model.low_rank", "0"]))
    assert everything is not None
    assert alone is not None
    assert len(alone.users) == 1
    assert alone.users == everything.users[:1]
    assert alone.temperatures == everything.temperatures


def test_a_given_validation_split_is_used_as_it_is(tmp_path) -> None:
    before, choice = opened(tmp_path, "--data.validation_size", "0.2")[0], None
    config, choice = chosen(tmp_path, "--data.validation_size", "0.2")
    assert choice is not None
    assert asdict(replace(config, model=before.model)) == asdict(before)
    # The learned dims alone are the best trial itself.
    assert choice.mixtures[Mixture()] == pytest.approx(max(choice.temperatures.values()))
    prepared = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(prepared) == 1  # no second cut


def test_equal_scores_rank_in_a_trial_as_they_do_in_an_evaluation(tmp_path) -> None:
    _, dataset = opened(tmp_path, "--data.validation_size", "0.2")
    cut = Cut.of(dataset, Protocol("validation", "mask", [5]))
    # A model that prefers nothing: unseen items stand in the order of their hashes, from each user's own on.
    hashes = [int(each) for each in tie_hashes(dataset.item_ids)]
    seen, held_out, figures = dataset.seen("validation"), dataset.held_out("validation"), []
    for user, first in zip(cut.users, first_hashes(dataset.user_ids.take(cut.users)), strict=True):
        had, wanted = ({*each.take(np.array([user]))[1].tolist()} for each in (seen, held_out))
        rows = [row for row in range(dataset.item_count) if row not in had]
        rows.sort(key=lambda row: (hashes[row] - int(first)) % 2**64)
        gains = [1 / math.log2(2 + rank) for rank in range(5)]
        found = sum(gain for gain, row in zip(gains, rows, strict=False) if row in wanted)
        figures.append(found / sum(gains[: len(wanted)]))
    nothing = torch.zeros(len(cut.users), 4), torch.zeros(dataset.item_count, 4)
    assert cut.figure(nothing) == pytest.approx(sum(figures) / len(figures))
