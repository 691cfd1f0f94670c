"""What is recorded: trainings, plans, help texts and errors, each by name and as options of a command."""

from dataclasses import dataclass

DATA = (
    "--data.name synthetic --data.synthetic_users 120 --data.synthetic_items 60"
    " --data.synthetic_interactions 2400"
)
SHORT = (
    f"{DATA} --model.dim 16 --batches.size 32 --run.epochs 4 --run.log_every 1 --evaluation.k 5,10"
    " --run.tensorboard false --run.choose false"
)
"""16 steps where a row is a user; what a training of the table says comes after and overrides it."""
SINGLE = "--batches.rows interaction --batches.size 256 --run.epochs 2"
"""16 steps where a row is an interaction."""


@dataclass(frozen=True)
class Training:
    """A training whose losses and metrics are recorded.

    Attributes:
        options: in addition to `SHORT`.
        ranks: numbers of ranks at which it is recorded.
        origin: options of another training, which goes before it and whose run it begins with (`--from`).
        resumed: whether it is cut back to its first checkpoint once it has ended, and goes on from there.
    """

    options: str
    ranks: tuple[int, ...] = (1, 3)
    origin: str | None = None
    resumed: bool = False


TRAININGS = {
    "catalogue_adam_table_wise": Training("--optimizer.name adam --sharding.kind table_wise"),
    "in_batch_rowwise_row_partitioned_features": Training(
        "--loss.candidates in_batch --optimizer.name rowwise_adagrad --sharding.kind row_partitioned"
        " --model.user_features gender,age --model.item_features genres,release_year"
    ),
    "sampled_adagrad_column_wise_history": Training(
        "--loss.candidates sampled --loss.samples 24 --loss.popularity_power 0.5 --optimizer.name adagrad"
        " --sharding.kind column_wise --model.history true --optimizer.schedule cosine"
    ),
    "bpr_sgd_data_parallel": Training(
        f"{SINGLE} --loss.name bpr --optimizer.name sgd --sharding.kind data_parallel"
        " --loss.mask_known false --loss.candidates sampled --loss.samples 24"
    ),
    "bpr_adam_auto_dot": Training(
        f"{SINGLE} --loss.name bpr --optimizer.name adam --sharding.kind auto --model.similarity dot",
        ranks=(1,),
    ),
    "mse_rowwise_auto_dot": Training(
        f"{SINGLE} --loss.name mse --optimizer.name rowwise_adagrad --sharding.kind auto"
        " --model.similarity dot --model.popularity_prior 0"
    ),
    "bce_adagrad_table_column_wise_hidden": Training(
        f"{SINGLE} --loss.name bce --optimizer.name adagrad --sharding.kind table_column_wise"
        " --model.hidden 24,16 --model.learn_temperature true --optimizer.clip_gradients 0.5"
    ),
    "single_rows_in_batch_learned_temperature": Training(
        f"{SINGLE} --loss.candidates in_batch --optimizer.name rowwise_adagrad --model.hidden 16"
        " --model.learn_temperature true --loss.logq false --optimizer.schedule constant"
    ),
    "closed_form_beside_and_every_baseline": Training(
        "--model.low_rank 8 --model.low_rank_weight 20 --model.low_rank_penalty 50"
        " --optimizer.name rowwise_adagrad --sharding.kind row_partitioned"
        " --evaluation.baselines popularity,random,low_rank,item_knn,ease --evaluation.sharded true"
    ),
    "closed_form_at_the_start_data_parallel_adam": Training(
        "--model.start low_rank --optimizer.name adam --sharding.kind data_parallel"
        " --optimizer.weight_decay 0.001 --optimizer.betas 0.8,0.99"
    ),
    "history_alone_concat_item_id_dropout": Training(
        "--model.history true --model.user_id false --model.user_features age --model.combine concat"
        " --model.item_features genres --model.item_id_dropout 0.3 --optimizer.name adam"
        " --sharding.kind row_partitioned"
    ),
    "float16_tables_bfloat16_products_and_exchange": Training(
        "--model.table_dtype float16 --model.precision bfloat16 --sharding.communication bfloat16"
        " --optimizer.name rowwise_adagrad --model.hidden 16 --sharding.exchange_ahead true"
        " --optimizer.table_learning_rates.item 0.05"
    ),
    "validation_patience_temporal_split": Training(
        "--data.split temporal --data.validation_size 0.1 --run.evaluate_every 1 --run.patience 2"
        " --run.epochs 8 --data.k_core 5 --data.min_value 2 --optimizer.name adam"
        " --optimizer.learning_rate 0.1 --run.keep_best 1 --run.metric recall --evaluation.seen keep"
    ),
    "resumed_rowwise_row_partitioned": Training(
        "--optimizer.name rowwise_adagrad --sharding.kind row_partitioned --model.hidden 16"
        " --data.split leave_last_out --run.save_every 6 --run.keep_last 9",
        resumed=True,
    ),
    "resumed_adam_table_wise": Training(
        "--optimizer.name adam --data.split per_user --run.save_every 6 --run.keep_last 9"
        " --run.save_async true --batches.ahead 2",
        resumed=True,
    ),
    "from_an_earlier_run": Training(
        "--optimizer.name adagrad --model.item_features genres --run.removed keep",
        origin="--optimizer.name adagrad --model.item_features genres --data.synthetic_users 130"
        " --data.synthetic_items 50 --run.seed 7 --run.save_every 8",
    ),
    "chosen": Training("--run.choose true --data.synthetic_interactions 3000", ranks=(1,)),
    "recency_row_partitioned": Training(
        "--data.split leave_last_out --model.history recency --sharding.kind row_partitioned"
        " --loss.samples 24"
    ),
    "transformer_own_table_users_resumed": Training(
        "--data.split leave_last_out --model.history transformer --model.history_table own"
        " --model.history_length 8 --model.user_id true --optimizer.name rowwise_adagrad --run.save_every 5",
        resumed=True,
    ),
    "hashed_ids": Training("--model.hashed_rows 64 --sharding.kind row_partitioned"),
}

READINGS = {
    "evaluate_everything": "evaluate RUN --device cpu --json --beyond --k 3,10"
    " --baselines popularity,random,low_rank,item_knn,ease",
    "evaluate_compare": "evaluate RUN --device cpu --json --compare OTHER",
    "evaluate_keep_seen_text": "evaluate RUN --device cpu --seen keep",
    "recommend_json": "recommend RUN --user 5 -k 5 --json",
    "recommend_text": "recommend RUN --user 7 -k 5 --keep-seen",
    "recommend_history": "recommend RUN --history 3,14,15 -k 5 --json",
}
"""Commands that read the runs of two trainings at one rank."""
RUN, OTHER = "closed_form_beside_and_every_baseline", "catalogue_adam_table_wise"

LARGE = f"{DATA} --rows user=2e8 --rows item=1e7 --dim 64"
PLANS = {
    "of_the_data": f"{DATA} --hardware h100-80g --dim 32 --world-size 2",
    "defaults_large": f"{LARGE} --hardware h100-80g --world-size 8",
    "row_wise_two_hosts": f"{LARGE} --hardware a100-80g --world-size 16 --local-world-size 8"
    " --sharding.kind row_wise --optimizer.name rowwise_adagrad",
    "column_wise_adagrad": f"{LARGE} --hardware h100-80g --world-size 8 --sharding.kind column_wise"
    " --optimizer.name adagrad --rows user=2e7",
    "row_partitioned_pinned": f"{LARGE} --hardware h100-80g --world-size 4 --sharding.kind table_wise"
    " --sharding.tables.user row_partitioned --sharding.partitions.user 3 --sharding.ranks.item 3",
    "float16_table_row_wise": f"{LARGE} --hardware h200-141g --world-size 16 --model.table_dtype float16"
    " --sharding.kind table_row_wise --optimizer.name rowwise_adagrad --sharding.communication float16",
    "closed_form_and_history": f"{DATA} --rows user=1e6 --rows item=1e5 --dim 64 --hardware h100-80g"
    " --model.low_rank 32 --model.history true --model.item_features genres --batches.size 4096",
    "auto": f"{DATA} --rows user=3e8 --rows item=2e5 --dim 128 --hardware a100-40g --world-size 8"
    " --local-world-size 2 --sharding.kind auto --optimizer.name rowwise_adagrad",
    "data_parallel_sgd": f"{DATA} --rows user=1e5 --rows item=1e4 --hardware a100-80g --world-size 3"
    " --sharding.kind data_parallel --optimizer.name sgd",
    "caches": f"{LARGE} --rows user=1e9 --hardware h100-80g --world-size 8"
    " --sharding.uvm_caching true --sharding.tables.user column_wise",
    "too_large": f"{LARGE} --rows user=5e9 --hardware h100-80g --world-size 2",
}
"""Options of `plan`, shown with `--json`.

Where `auto` finds kinds of sharding that are equally fast, the one that it takes differs from process to
process; the case here has one that is fastest.
"""
PLAN_TEXTS = ("of_the_data", "row_partitioned_pinned", "caches")
"""Plans of which the text is recorded as well."""
COMPARED = ("row_partitioned_pinned", "defaults_large")
"""The plan that is shown, and the saved one that is set beside it."""

COMMANDS = ("train", "plan", "evaluate", "recommend", "export", "serve", "report", "prepare", "doctor")
"""Of which the help is recorded."""

FILES = {
    "likes.csv": "user_id,item_id,value\n1,7,5\n1,8,4\n2,7,3\n2,9,5\n3,8,5\n3,9,4\n",
    "bad_value.csv": "user_id,item_id,value\n1,7,5\n1,8,five\n2,7,3\n",
    "no_item.csv": "user_id,value\n1,5\n2,4\n",
    "no_header.csv": "",
    "few.csv": "user_id,item_id\n1,7\n",
    "ml-100k/u.data": "1\t242\t3\t881250949\n2\t243\tthree\t881250950\n",
    "misspelt.yaml": "model:\n  dimension: 32\n",
    "mistyped.yaml": "run:\n  epochs: many\n",
    "broken.yaml": "model: [1, 2\n",
    "list.yaml": "- 1\n- 2\n",
    "hardware.yaml": "device: cuda\nmemory: plenty\n",
    "plan.json": '{"world_size": 2}\n',
}
"""What stands in the folder in which the commands below fail."""

OWN = "--data.name files --data.format csv --data.cache cache --data.interactions"
ERRORS = {
    "command_misspelt": "trian",
    "command_unknown": "xyz",
    "option_misspelt": "train --modle.dim 32",
    "option_without_its_section": "train --dim 32",
    "option_unknown": "train --no.such.thing.at.all 1",
    "value_no_number": "train --run.epochs many",
    "value_of_no_choice": "train --loss.name hinge",
    "value_out_of_range": "train --model.dim 30",
    "value_not_finite": "train --optimizer.learning_rate inf",
    "value_missing": "train --model.dim",
    "data_set_unknown": "train --data.name ml-2m",
    "config_missing": "train --config nowhere.yaml",
    "config_key_misspelt": "train --config misspelt.yaml",
    "config_value": "train --config mistyped.yaml",
    "config_not_yaml": "train --config broken.yaml",
    "config_no_mapping": "train --config list.yaml",
    "combination_loss_and_rows": "train --loss.name mse",
    "combination_closed_form_and_loss": "train --loss.name mse --batches.rows interaction --model.low_rank 8",
    "combination_temperature_and_dot": "train --model.similarity dot --model.learn_temperature true",
    "combination_patience_without_validation": "train --run.patience 3",
    "combination_concat_and_dim": "train --model.combine concat --model.history true --model.dim 12",
    "no_query_tower": "train --model.user_id false",
    "baseline_unknown": "train --evaluation.baselines popularity,als",
    "sharding_without_gpu": f"train {DATA} --data.cache cache --device cpu --sharding.kind row_wise",
    "precision_without_gpu": f"train {DATA} --data.cache cache --device cpu --model.precision tf32",
    "feature_unknown": f"train {DATA} --data.cache cache --device cpu --model.user_features height",
    "table_unknown": f"train {DATA} --data.cache cache --device cpu --sharding.tables.film column_wise",
    "plan_file_missing": f"train {DATA} --data.cache cache --device cpu --sharding.plan nowhere.json",
    "plan_file_damaged": f"train {DATA} --data.cache cache --device cpu --sharding.plan plan.json",
    "files_not_named": "prepare --data.name files",
    "file_missing": f"prepare {OWN} nowhere.csv",
    "file_with_a_bad_line": f"prepare {OWN} bad_value.csv",
    "file_without_a_column": f"prepare {OWN} no_item.csv",
    "file_empty": f"prepare {OWN} no_header.csv",
    "file_with_too_little": f"prepare {OWN} few.csv",
    "nothing_left": f"prepare {OWN} likes.csv --data.k_core 50",
    "release_missing": "prepare --data.name ml-1m --data.root . --data.source none --data.cache cache",
    "release_with_a_bad_line": "prepare --data.name ml-100k --data.root . --data.source none"
    " --data.cache cache",
    "synthetic_none": "prepare --data.name synthetic --data.synthetic_users 0 --data.cache cache",
    "run_finished": "train --run.dir run --device cpu",
    "run_of_other_options": "train --run.dir run --device cpu --model.dim 32",
    "run_of_other_data": "train --run.dir run --device cpu --data.test_size 0.3",
    "from_no_run": "train --from nowhere",
    "from_without_a_run": "train --from",
    "from_another_shape": "train --from run --model.dim 64",
    "removed_without_from": "train --run.removed keep",
    "evaluate_no_run": "evaluate nowhere",
    "evaluate_bad_lengths": "evaluate run --k 0,5",
    "evaluate_bad_baseline": "evaluate run --baselines als",
    "evaluate_without_validation": "evaluate run --split validation --device cpu",
    "evaluate_compare_no_run": "evaluate run --device cpu --compare nowhere",
    "recommend_no_run": "recommend nowhere --user 1",
    "recommend_nobody": "recommend run",
    "recommend_unknown_user": "recommend run --user 99999",
    "recommend_unknown_history": "recommend run --history 99998,99999",
    "recommend_too_few": "recommend run --user 1 -k 0",
    "plan_hardware_unknown": f"plan {DATA} --data.cache cache --hardware h1000",
    "plan_hardware_file": f"plan {DATA} --data.cache cache --hardware hardware.yaml",
    "plan_rows_without_a_table": f"plan {DATA} --data.cache cache --rows 1e6 --hardware h100-80g",
    "plan_rows_of_no_table": f"plan {DATA} --data.cache cache --rows film=1e6 --hardware h100-80g",
    "plan_no_ranks": "plan --world-size 0",
    "plan_hosts_of_unequal_ranks": f"plan {DATA} --data.cache cache --world-size 6 --local-world-size 4"
    " --hardware h100-80g",
    "plan_pinned_beyond_the_ranks": f"plan {DATA} --data.cache cache --world-size 2 --hardware h100-80g"
    " --sharding.ranks.item 5",
    "plan_json_and_compare": "plan --json --compare plan.json",
    "plan_of_a_run_with_options": "plan run --world-size 2",
}
"""Commands that fail, in a folder with `FILES` and a finished run `run`."""
