"""Configuration from files and options: what is taken, what is refused, and in which words."""

from pathlib import Path

import pytest

from trainer.config.parser import config_text, parse_config, read_config
from trainer.config.schema import Config
from trainer.errors import ConfigError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.fixture
def written(tmp_path: Path):
    """Writes a configuration file and returns its path."""

    def write(text: str, name: str = "some.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def refused(*arguments: str) -> str:
    with pytest.raises(ConfigError) as error:
        parse_config(arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_without_options_everything_is_at_its_default() -> None:
    assert parse_config([]) == Config()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--run.epoch", "--run.epochs"),
        ("--epochs", "--run.epochs"),
        ("--model.dims=4", "--model.dim"),
        ("--optimiser.name", "--optimizer.name"),
        ("--devise", "--device"),
    ],
)
def test_a_misspelt_option_names_the_nearest(given: str, meant: str) -> None:
    assert refused(given, "3") == f"{given.split('=')[0]}: no such option. Did you mean {meant}?"


def test_an_option_like_no_other_points_to_the_help() -> None:
    assert refused("--zzz", "3") == "--zzz: no such option. See python -m trainer train --help"


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("run.epochs", "ten", "a whole number"),
        ("run.epochs", "1.5", "a whole number"),
        ("run.epochs", "", "a whole number"),
        ("model.temperature", "warm", "a number"),
        ("model.temperature", "nan", "a number"),
        ("run.tensorboard", "maybe", "true or false"),
        ("loss.name", "hinge", "one of softmax, bpr, mse, bce"),
        ("device", "gpu", "one of auto, cpu, cuda"),
        ("model.init_std", "x", "a number"),
        ("optimizer.table_learning_rates", "5", "a mapping of names to numbers"),
        ("optimizer.table_learning_rates.item", "x", "a number"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_was_expected(
    option: str, value: str, expected: str
) -> None:
    assert refused(f"--{option}", value) == f"--{option} {value}: expected {expected}"
    assert refused(f"--{option}={value}") == f"--{option} {value}: expected {expected}"


@pytest.mark.parametrize("text", ["8,4", "[8,4]", "[8, 4]"])
def test_lists_are_written_with_commas(text: str) -> None:
    assert parse_config(["--model.hidden", text]).model.hidden == [8, 4]
    assert parse_config([f"--evaluation.k={text}"]).evaluation.k == [8, 4]


def test_a_list_of_one_or_none_needs_no_brackets() -> None:
    assert parse_config(["--model.hidden", "8"]).model.hidden == [8]
    assert parse_config(["--model.hidden", ""]).model.hidden == []
    assert parse_config(["--model.user_features", "age,gender"]).model.user_features == ["age", "gender"]


def test_a_list_can_be_added_to() -> None:
    assert parse_config(["--evaluation.k+", "20"]).evaluation.k == [10, 20]
    assert parse_config(["--evaluation.k+=20,50"]).evaluation.k == [10, 20, 50]


def test_a_list_with_a_wrong_entry_is_refused() -> None:
    assert refused("--model.hidden", "8,a") == "--model.hidden [8,a]: expected a list of whole numbers"


def test_one_tables_learning_rate_is_set_beside_the_others() -> None:
    rates = parse_config(["--optimizer.table_learning_rates.item", "0.2"]).optimizer.table_learning_rates
    assert rates == {"item": 0.2}


def test_a_lost_word_is_refused() -> None:
    assert "stray" in refused("--run.epochs", "3", "stray")


def test_options_override_the_file_and_the_file_the_defaults_in_any_order(written) -> None:
    path = written("run: {epochs: 7, seed: 3}\n")
    for arguments in (["--config", path, "--run.epochs", "9"], ["--run.epochs=9", f"--config={path}"]):
        found = parse_config(arguments).run
        assert (found.epochs, found.seed, found.log_every) == (9, 3, Config().run.log_every)


def test_a_later_file_overrides_an_earlier_one(written) -> None:
    one, two = written("run: {epochs: 7, seed: 3}\n", "1.yaml"), written("run: {epochs: 8}\n", "2.yaml")
    found = parse_config(["--config", one, "--config", two]).run
    assert (found.epochs, found.seed) == (8, 3)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("run:\n  epoch: 7\n", ": run.epoch: no such option. Did you mean run.epochs?"),
        ("rnu: {epochs: 7}\n", ": rnu: no such option. Did you mean run?"),
        ("epochs: 7\n", ": epochs: no such option. Did you mean run.epochs?"),
        ("run: 7\n", ": run is 7, expected keys below it. Mend the file"),
        ("run: {epochs: seven}\n", ": run.epochs is 'seven', expected a whole number"),
        ("loss: {name: hinge}\n", ": loss.name is 'hinge', expected one of softmax, bpr, mse, bce"),
        ("model: {hidden: 3}\n", ": model.hidden is '3', expected a list of whole numbers"),
        ("- run\n", ": holds list, expected keys such as `model:`. Mend the file"),
        ("", ": holds NoneType, expected keys such as `model:`. Mend the file"),
        ("run:\n  epochs: [7\nmodel: 3\n", ":3: not YAML: expected ',' or ']', but got ':'. Mend the file"),
        (
            "run:\n\tepochs: 3\n",
            ":2: not YAML: found character '\\t' that cannot start any token. Mend the file",
        ),
    ],
)
def test_a_fault_in_a_file_is_named_with_its_place(written, text: str, fault: str) -> None:
    path = written(text)
    assert refused("--config", path) == path + fault


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"
    assert refused("--config", str(path)).startswith(f"--config {path}: no such file. Name a YAML file")
    assert "cannot be read" in refused("--config", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--model.dim", "6"],
            "--model.dim 6: a multiple of 4 from 4 to 16,384 is needed, as FBGEMM takes no other",
        ),
        (
            ["--model.low_rank", "16388"],
            "--model.low_rank 16388: 0 or a multiple of 4 from 4 to 16,384 is needed, as FBGEMM takes "
            "no other",
        ),
        (["--model.temperature", "0"], "--model.temperature 0.0: a number above 0 is needed"),
        (["--batches.size", "0"], "--batches.size 0: a whole number from 1 up is needed"),
        (["--batches.ahead", "-1"], "--batches.ahead -1: a whole number from 0 up is needed"),
        (["--evaluation.k", "5,0"], "--evaluation.k [5, 0]: whole numbers from 1 up are needed"),
        (
            ["--evaluation.baselines", "popularity,knn"],
            "--evaluation.baselines ['popularity', 'knn']: "
            "names out of popularity, random, item_knn, ease, low_rank, item_knn_last, markov are needed",
        ),
        (["--evaluation.k", ""], "--evaluation.k []: whole numbers from 1 up are needed"),
        (["--optimizer.learning_rate", "-1"], "--optimizer.learning_rate -1.0: a number above 0 is needed"),
        (
            ["--optimizer.dense_learning_rate", "0"],
            "--optimizer.dense_learning_rate 0.0: a number above 0 is needed",
        ),
        (
            ["--optimizer.table_learning_rates", "{item: -1}"],
            "--optimizer.table_learning_rates {'item': -1.0}: numbers from 0 up are needed",
        ),
        (
            ["--optimizer.betas", "0.9,1"],
            "--optimizer.betas [0.9, 1.0]: two numbers from 0 to below 1 are needed",
        ),
        (["--optimizer.betas", "0.9"], "--optimizer.betas [0.9]: two numbers from 0 to below 1 are needed"),
        (["--optimizer.warmup", "2"], "--optimizer.warmup 2.0: a share from 0 to 1 is needed"),
        (["--loss.popularity_power", "1.5"], "--loss.popularity_power 1.5: a number from 0 to 1 is needed"),
        (["--data.test_size", "1"], "--data.test_size 1.0: a share between 0 and 1 is needed"),
        (["--run.seed", "-1"], "--run.seed -1: a whole number from 0 to 2147483647 is needed"),
        (["--run.patience", "-1"], "--run.patience -1: a whole number from 0 up is needed"),
        (
            ["--run.patience", "3", "--run.evaluate_every", "0", "--data.validation_size", "0.1"],
            "--run.patience 3: needs evaluations to count, for instance "
            "--run.evaluate_every 1 --data.validation_size 0.1",
        ),
        (
            ["--model.user_id", "false"],
            "--model.user_id false: the query tower needs --model.user_id true, --model.history bag or "
            "--model.user_features",
        ),
        (
            ["--model.history", "lately"],
            "--model.history lately: expected one of none, bag, recency, transformer",
        ),
        (["--model.history_dropout", "0"], "--model.history_dropout 0.0: a share between 0 and 1 is needed"),
        (["--model.history_dropout", "1"], "--model.history_dropout 1.0: a share between 0 and 1 is needed"),
        (
            ["--model.item_id_dropout", "1"],
            "--model.item_id_dropout 1.0: a share from 0 to below 1 is needed",
        ),
        *(
            (
                ["--model.hashed_rows", rows],
                f"--model.hashed_rows {rows}: a whole number from 2 to 2147483646 is needed",
            )
            for rows in ("0", "1", "-5", "2147483647")
        ),
        (
            ["--model.hashed_rows", "100", "--model.start", "low_rank"],
            "--model.hashed_rows 100: needs --model.start random",
        ),
        (
            [
                *("--model.combine", "concat", "--model.history", "true"),
                *("--model.item_features", "a,b"),
                *("--model.dim", "32"),
            ],
            "--model.dim 32: a multiple of 24 is needed with --model.combine concat, which shares it among "
            "2 features of users and 3 of items, a multiple of 4 for each",
        ),
        (["--loss.name", "bpr"], "--loss.name bpr: needs --batches.rows interaction"),
        (["--loss.mask_known", "false"], "--loss.mask_known false: needs --batches.rows interaction or next"),
        (["--data.name", "files"], "--data.name files: needs --data.interactions FILE"),
        (
            ["--data.encoding", "base64"],
            "--data.encoding base64: the name of a Python text encoding is needed, such as utf-8, cp1252 or "
            "utf-16",
        ),
        (
            ["--data.separator", "tabs"],
            "--data.separator tabs: one character, :: or one of comma, tab, semicolon, pipe, space, colons, "
            "ctrl-a is needed",
        ),
        (
            ["--data.columns", "user,value"],
            "--data.columns ['user', 'value']: names, each once, are needed, and among them item or "
            "--data.item_column item_id",
        ),
        (
            ["--data.columns", "user,item,item"],
            "--data.columns ['user', 'item', 'item']: names, each once, are needed, and among them user or "
            "--data.user_column user_id",
        ),
        (
            ["--data.item_columns", "user,title"],
            "--data.item_columns ['user', 'title']: names, each once, are needed, and among them item or "
            "--data.item_column item_id",
        ),
        (
            ["--data.user_columns", "user,age,age"],
            "--data.user_columns ['user', 'age', 'age']: names, each once, are needed, and among them user "
            "or --data.user_column user_id",
        ),
        (
            [*("--loss.name", "bce", "--batches.rows", "interaction", "--data.min_value", "4")],
            "--data.min_value 4.0: less than --loss.positive_value 4 is needed with --loss.name bce, as all "
            "that is left would count as 1; or --data.negatives use",
        ),
        (
            [
                *("--loss.name", "bce", "--batches.rows", "interaction", "--data.min_value", "4"),
                *("--data.negatives", "use", "--loss.positive_value", "3"),
            ],
            "--loss.positive_value 3.0: --data.min_value or more is needed with --data.negatives use, as a "
            "negative counts as 0",
        ),
        (
            [
                *("--data.name", "files", "--data.interactions", "f", "--data.order", "file"),
                *("--data.split", "temporal"),
            ],
            "--data.order file: orders the rows of each user, and not those of two, which --data.split "
            "temporal needs. Use --data.split leave_last_out, or timestamps: --data.order time",
        ),
        (
            [
                *("--data.name", "files", "--data.interactions", "a.csv", "--data.impressions", "shown.csv"),
                *("--data.negatives", "use", "--loss.name", "mse", "--batches.rows", "interaction"),
            ],
            "--data.impressions shown.csv: needs --loss.name softmax or bpr or bce, as what was only shown "
            "has no value that --loss.name mse could fit",
        ),
    ],
)
def test_values_and_combinations_that_cannot_work_are_refused(arguments: list[str], message: str) -> None:
    assert refused(*arguments) == message


def test_evaluating_during_the_training_needs_a_validation_part() -> None:
    assert "needs a validation part" in refused("--run.evaluate_every", "1")
    assert "needs a validation part" in refused("--run.evaluate_every", "1", "--data.split", "leave_last_out")
    parse_config(["--run.evaluate_every", "1", "--data.validation_size", "0.1"])


def test_patience_needs_evaluations_on_a_validation_part() -> None:
    assert refused("--run.patience", "3").startswith("--run.patience 3: needs evaluations to count")
    assert "needs a validation part" in refused("--run.patience", "3", "--run.evaluate_every", "1")
    parse_config(
        ["--run.patience", "3", "--run.evaluate_every", "1", "--data.validation_size", "0.1"],
    )


def test_measuring_the_validation_part_needs_one_before_the_training_and_not_after_it() -> None:
    assert refused("--evaluation.split", "validation").startswith(
        "--evaluation.split validation: needs a validation part"
    )
    parse_config(["--evaluation.split", "validation", "--data.validation_size", "0.1"])


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [
            *("--run.dir", "2024", "--data.name", "files", "--data.interactions", "a: b # c"),
            *("--data.user_column", "1e3", "--data.cache", "true"),
        ],
        [
            "--optimizer.weight_decay",
            "1e-5",
            "--optimizer.table_learning_rates",
            "{}",
            "--model.init_std",
            "1",
        ],
        ["--model.user_features", "age,gender", "--model.hidden", "64,32", "--evaluation.k", "1,5"],
        ["--run.dir", "Läufe/ein Lauf", "--run.tensorboard", "no", "--data.min_value", "3.5"],
    ],
)
def test_a_written_configuration_comes_back_the_same(tmp_path: Path, arguments: list[str]) -> None:
    config = parse_config(arguments)
    (tmp_path / "config.yaml").write_text(config_text(config))
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_file_of_the_repository_is_taken(path: Path) -> None:
    assert parse_config(["--config", str(path)]) != Config() or path.name == "default.yaml"


def test_the_default_configuration_file_says_what_holds_without_it() -> None:
    path = Path(__file__).resolve().parents[2] / "configs" / "default.yaml"
    if not path.exists():
        pytest.skip("there is no configs/default.yaml")
    assert read_config(path) == Config()
