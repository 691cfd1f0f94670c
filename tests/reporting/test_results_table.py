from trainer.evaluation.bootstrap import Difference
from trainer.evaluation.rating_errors import RatingErrors
from trainer.reporting.results_table import comparison, ratings_table, results_table, verdict

METRICS = ["ndcg", "recall", "precision", "hit_rate", "mrr", "map"]


def ndcg(model, popularity=None, random=None):
    values = {"model": model, "popularity": popularity, "random": random}
    return {ranker: {"ndcg@10": value} for ranker, value in values.items() if value is not None}


def test_a_table_is_aligned_and_stars_the_best_of_each_column():
    results = {
        "this model": {"ndcg@10": 0.44851, "recall@10": 0.1},
        "popularity": {"ndcg@10": 0.2041, "recall@10": 0.25},
    }
    assert results_table(results).splitlines() == [
        "at 10        ndcg  recall",
        "this model 0.4485* 0.1000",
        "popularity 0.2041  0.2500*",
    ]


def test_each_k_has_a_block_of_its_own_and_no_line_is_wider_than_80_columns():
    wide = {f"{name}@{k}": 0.123456 for k in (10, 100) for name in METRICS}
    shown = results_table({"a ranker with quite a long name": wide, "popularity": wide})
    first, second = shown.split("\n\n")
    assert first.startswith("at 10 ")
    assert second.startswith("at 100 ")
    assert first.splitlines()[0].split() == ["at", "10", *METRICS]
    assert max(map(len, shown.splitlines())) <= 80


def test_columns_that_do_not_fit_go_on_in_another_block():
    results = {"model": {f"quite_a_long_metric_{number}@10": number / 10 for number in range(6)}}
    blocks = results_table(results).split("\n\n")
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 80
    headings = [word for block in blocks for word in block.splitlines()[0].split()[2:]]
    assert headings == [f"quite_a_long_metric_{number}" for number in range(6)]
    assert all(block.splitlines()[1].startswith("model") for block in blocks)


def test_a_metric_that_a_ranker_lacks_is_a_dash():
    table = results_table({"model": {"ndcg@10": 0.5, "auc": 0.9}, "popularity": {"ndcg@10": 0.2}})
    assert table.splitlines()[-1].split() == ["popularity", "-"]


def test_a_single_ranker_is_not_starred():
    assert "*" not in results_table({"model": {"ndcg@10": 0.5}})


def test_a_good_model_is_compared_in_multiples():
    shown = verdict(ndcg(0.4485, 0.2041, 0.0100))
    assert shown == "ndcg@10 0.4485: 2.2 times popularity (0.2041) and 45 times random (0.0100)."


def test_a_narrow_win_is_not_rounded_away():
    assert "1.03 times popularity" in verdict(ndcg(0.2100, 0.2041))


def test_a_model_below_popularity_is_said_to_fail():
    assert verdict(ndcg(0.0070, 0.2041, 0.0010)) == (
        "This model FAILS to beat popularity: ndcg@10 0.0070 against 0.2041; "
        "recommending the most popular items would serve users better."
    )


def test_a_model_below_random_is_said_to_fail_twice():
    shown = verdict(ndcg(0.0070, 0.2041, 0.0100))
    assert "FAILS to beat popularity" in shown
    assert "FAILS to beat random: ndcg@10 0.0070 against 0.0100; a list drawn by lot" in shown


def test_a_draw_with_popularity_is_no_win():
    assert verdict(ndcg(0.2041, 0.2041)).endswith("would serve users as well.")


def test_a_baseline_of_zero_gives_no_multiple():
    assert verdict(ndcg(0.4, random=0.0)) == "ndcg@10 0.4000: above random (0.0000)."


def test_kept_seen_items_are_pointed_out():
    assert "seen items masked" in verdict(ndcg(0.1, 0.2), seen="keep")
    assert "(--seen mask)" in verdict(ndcg(0.1, 0.2), seen="keep", option_prefix="--")
    assert "seen items masked" not in verdict(ndcg(0.1, 0.2), seen="mask")


def test_seen_items_are_blamed_only_for_the_places_that_they_take():
    blamed = verdict(ndcg(0.1, 0.2), seen="keep", seen_share=0.42)
    assert "take 42.0% of the places, so the better a model knows what was seen" in blamed
    acquitted = verdict(ndcg(0.1, 0.2), seen="keep", seen_share=0.004, option_prefix="--")
    assert acquitted.endswith("take 0.4% of the places: masking them (--seen mask) would change little.")


def errors(rmse, unseen_sd):
    spread = {"seen_mean": 3.41, "seen_sd": 1.8, "unseen_mean": 0.01, "unseen_sd": unseen_sd}
    return RatingErrors(2000, rmse, 16.2, 3.53, 1.124, 0.942, **spread)


def test_a_model_of_ratings_is_judged_by_its_errors_and_by_what_it_was_fitted_to():
    assert verdict(ndcg(0.012, random=0.011), ratings=errors(20.3357, 21.4)).split(". ")[1:] == [
        "Ratings are predicted worse than the training mean, said of every pair (RMSE 20.3 against 1.12)",
        "Pairs without a rating are never fitted: scores of seen items are 3.4 +- 1.8, those of all others "
        "0.0 +- 21, and the largest of these, which come first, are noise.",
    ]
    learned = verdict(ndcg(0.4, random=0.1), ratings=errors(20.3357, 21.4))
    assert learned.endswith("those of all others 0.0 +- 21.")
    good = verdict(ndcg(0.4, random=0.1), ratings=errors(0.94, 0.5))
    assert "predicted better than the training mean" in good
    assert good.endswith("those of all others 0.0 +- 0.5.")


def test_errors_of_ratings_stand_beside_those_of_the_mean():
    assert ratings_table(errors(20.3357, 21.4)).splitlines() == [
        "Errors on 2,000 ratings, and scores as mean +- deviation",
        "               rmse      mae",
        "model       20.3357  16.2000",
        "always 3.53  1.1240   0.9420",
        "scores of seen items 3.4 +- 1.8, of all others 0.0 +- 21",
    ]


def test_another_metric_and_model_can_be_judged():
    results = {"mine": {"map@5": 0.6}, "popularity": {"map@5": 0.3}}
    assert verdict(results, metric="map@5", model="mine") == "map@5 0.6000: 2.0 times popularity (0.3000)."


def with_strong(model, item_knn, ease, popularity=0.2):
    values = {"model": model, "popularity": popularity, "item_knn": item_knn, "ease": ease}
    return {ranker: {"ndcg@10": value} for ranker, value in values.items()}


def test_wins_over_several_baselines_are_one_sentence():
    assert verdict(with_strong(0.44, 0.4, 0.43)) == (
        "ndcg@10 0.4400: 2.2 times popularity (0.2000), 1.10 times item_knn (0.4000) and "
        "1.02 times ease (0.4300)."
    )


def test_a_model_below_ease_is_said_to_fail_after_what_it_beats():
    assert verdict(with_strong(0.42, 0.4, 0.43)) == (
        "ndcg@10 0.4200: 2.1 times popularity (0.2000) and 1.05 times item_knn (0.4000). "
        "This model FAILS to beat ease: ndcg@10 0.4200 against 0.4300; "
        "a linear model in closed form, found without any training, would serve users better."
    )


def test_a_model_below_popularity_is_praised_for_nothing():
    assert verdict(with_strong(0.19, 0.1, 0.43)).startswith("This model FAILS to beat popularity")
    assert "item_knn" not in verdict(with_strong(0.19, 0.1, 0.43))


def test_nothing_is_starred_where_larger_is_not_better():
    assert "*" not in results_table({"model": {"gini@10": 0.9}, "random": {"gini@10": 0.2}}, starred=False)


def compared(difference, low, high):
    found = {"ndcg@10": Difference(0.5, 0.5 - difference, difference, low, high)}
    return comparison(found, "runs/b", 940, "ndcg@10").splitlines()


def test_a_comparison_has_a_line_for_each_metric_and_one_in_words():
    assert compared(0.01, 0.002, 0.018) == [
        "Compared with runs/b",
        "           this   other  difference  95% interval",
        "ndcg@10  0.5000  0.4900     +0.0100  +0.0020 to +0.0180",
        "ndcg@10: this run is better by 0.0100, more than the choice of 940 users explains.",
    ]
    assert "this run is worse by 0.0100" in compared(-0.01, -0.018, -0.002)[-1]


def test_an_interval_that_holds_zero_tells_no_difference():
    assert "no difference can be told" in compared(0.01, -0.002, 0.018)[-1]
    assert "no difference can be told" in compared(0.01, 0.0, 0.018)[-1]
    assert "no user is served differently" in compared(0.0, 0.0, 0.0)[-1]
