from trainer.evaluation.table import results_table, verdict

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
    assert "seen items masked" not in verdict(ndcg(0.1, 0.2), seen="mask")


def test_another_metric_and_model_can_be_judged():
    results = {"mine": {"map@5": 0.6}, "popularity": {"map@5": 0.3}}
    assert verdict(results, metric="map@5", model="mine") == "map@5 0.6000: 2.0 times popularity (0.3000)."
