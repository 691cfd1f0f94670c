"""Typed configuration: one dataclass a section, every field with its meaning, unit and default.

A field that is null is decided once the data are known: by their size (`trainer.config.size_defaults`), or by
what ranks a validation split best (`trainer.tuning.tuning`). Nothing here imports torch, so that `--help`
and a misspelt option answer at once.
"""

from dataclasses import dataclass, field
from typing import Literal

from trainer.facts.histories import HistoryName
from trainer.facts.losses import LossName

ATTRIBUTE_KINDS = ("category", "list", "number", "buckets", "time", "vector", "ignore")
"""How an attribute can be read; see `trainer.storage.attributes`."""


@dataclass(frozen=True)
class DataConfig:
    """Which interactions, how they are cleaned, and how they are split."""

    name: Literal[
        "ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest-small", "files", "synthetic"
    ] = "ml-100k"
    """Data set: a MovieLens release, `files` (tables of your own) or `synthetic`."""
    root: str = "data"
    """Holds one folder a MovieLens release (`data/ml-100k/u.data`); missing ones are fetched into it."""
    source: Literal["auto", "grouplens", "recbole", "none"] = "auto"
    """Where missing MovieLens files come from: `auto` tries each source in turn, `none` fetches nothing."""
    share: Literal["none", "users"] = "none"
    """`users`: each host prepares and keeps its own users alone; see `trainer/shares/README.md`."""
    cache: str | None = None
    """Folder of prepared data sets; by default `$XDG_CACHE_HOME/shardtower` or `~/.cache/shardtower`."""
    format: Literal["auto", "parquet", "csv", "tsv", "recbole", "lightgcn"] = "auto"
    """Format of your own tables (`name: files`); `auto` takes each file as what its content and name say."""
    encoding: str = "utf-8"
    """Encoding of text files, e.g. `cp1252` (what Excel writes in Western Europe) or `utf-16`."""
    separator: str | None = None
    """Separator of text files: a character or `comma`, `tab`, `semicolon`, ...; by default found in each."""
    columns: list[str] = field(default_factory=list)
    """Names of the columns of interactions without a header: `user,item,value,timestamp`, in file order."""
    user_columns: list[str] = field(default_factory=list)
    """The same of user attributes without a header: `user,age,gender`."""
    item_columns: list[str] = field(default_factory=list)
    """The same of item attributes without a header: `item,title,genres`."""
    interactions: str | None = None
    """File, or folder of part files, of your own interactions; .gz, .zst, .bz2 and .zip are read too."""
    held_out: str | None = None
    """File or folder of held-out interactions; implies `split: given`."""
    impressions: str | None = None
    """File or folder of (user, item) pairs that were shown and not taken: with `negatives: use` training
    ranks them low; columns and formats as in `interactions`."""
    users: str | None = None
    """File or folder of user attributes, keyed by `user_column`."""
    items: str | None = None
    """File or folder of item attributes, keyed by `item_column`; `title` names the items."""
    user_vectors: dict[str, str] = field(default_factory=dict)
    """Vectors of users by name: a `.npz` file with `ids` and `vectors`, or `X.npy` beside `X_ids.npy`."""
    item_vectors: dict[str, str] = field(default_factory=dict)
    """The same for items: `--data.item_vectors.image image.npz` makes an attribute `image` of embeddings."""
    attribute_kinds: dict[str, str] = field(default_factory=dict)
    """Kind of an attribute where its type misleads: `category`, `list`, `number`, `buckets` (10 quantiles, or
    `buckets:20`), `time`, `vector`, `ignore`. By type, whole numbers and texts are categories, fractional
    numbers and times standardised numbers, lists bags of categories or vectors. Missing is a value, too."""
    list_separator: str | None = None
    """Separates the entries of lists in text attributes; by default guessed (`|` or `;`), and printed."""
    user_column: str = "user_id"
    """Column of user ids in your own tables."""
    item_column: str = "item_id"
    """Column of item ids in your own tables."""
    value_column: str | None = "value"
    """Column of values (ratings) in your own tables; it may be absent, and `null` leaves it unread."""
    timestamp_column: str | None = "timestamp"
    """Column of times, ISO 8601 or s, ms, us, ns since 1970; may be absent, and `null` leaves it unread."""
    weight_column: str | None = None
    """Column of weights in your own tables, for losses and popularity: 2 counts twice, 0 not at all."""
    bad_rows: Literal["error", "skip"] = "error"
    """What a line that cannot be read does: stop with an error that names it, or be skipped and counted."""
    min_value: float | None = None
    """Interactions with a smaller value are no positives and are dropped, in every split."""
    negatives: Literal["drop", "use"] = "drop"
    """`use` trains on values below `min_value`, and on `impressions`, as explicit negatives."""
    k_core: int = 0
    """Drop users and items with fewer interactions than this, until none has fewer (0: keep all)."""
    split: Literal["random", "leave_last_out", "temporal", "per_user", "given", "none"] = "random"
    """Rule of the test split: random rows, each user's last, the latest rows, random rows of each user.
    `none` trains on every row, for serving, and measures nothing."""
    test_size: float = 0.2
    """Share of interactions in the test split (0 to 1; not used by `leave_last_out`, `given` and `none`)."""
    validation_size: float = 0.0
    """Share of the training split to cut off for validation by the same rule (0: none)."""
    order: Literal["time", "file"] = "time"
    """What tells which of a user's interactions came first: timestamps, or their order in the file, oldest
    first, as in LightGCN's text where a user's items stand in order of time; timestamps are then unread."""
    repeats: Literal["drop", "keep"] = "drop"
    """Pairs that the test part of a split by time repeats from training: left out, or to be found again."""
    split_seed: int = 42
    """Seed of the `random` and `per_user` splits."""
    synthetic_users: int = 1000
    """Users of `name: synthetic`."""
    synthetic_items: int = 500
    """Items of `name: synthetic`."""
    synthetic_interactions: int = 40_000
    """Interactions of `name: synthetic`, before duplicates are dropped."""
    synthetic_seed: int = 0
    """Seed of `name: synthetic`."""


@dataclass(frozen=True)
class BatchConfig:
    """What a row of a training step is, and how many there are."""

    rows: Literal["user", "interaction", "next"] | None = None
    """A row is a user with all positives at once, one interaction, or the `next` one after all that came
    before, which ordered histories need; by default `next` with one of these, else `user`."""
    size: int | None = None
    """Global batch: rows of one step over all ranks; by default the power of 2 near 4 √rows, 16 to 8,192.
    With `rows: next` stretches of up to `history_length` rows, by default near the root of their number."""
    ahead: int | None = None
    """Batches that a thread makes in advance (0: none); by default 2 on CUDA and none on CPU."""


@dataclass(frozen=True)
class ModelConfig:
    """The two towers."""

    dim: int | None = None
    """Width of tables and towers, a multiple of 4 to 16,384; default 128, from 300,000 interactions 256."""
    table_dtype: Literal["float32", "float16"] = "float32"
    """Type of the tables' values, 4 or 2 bytes each; pooled vectors and optimizer state stay float32."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of a step's matrix products (dense layers, scores); `tf32` needs CUDA, Ampere or newer."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """Score: dot product of unit vectors divided by the temperature, or of the plain vectors."""
    temperature: float | None = None
    """Divisor of cosine scores (> 0); smaller is sharper. By default chosen on a validation split."""
    learn_temperature: bool = False
    """Train the temperature as a parameter that starts at `temperature`."""
    item_bias: bool = True
    """Add a learned bias to each item's score."""
    popularity_prior: float | None = None
    """The bias of an item starts at this multiple of its centred log popularity (0: at zero); by default
    0.85, with an ordered history 0.5."""
    init_std: float | None = None
    """Standard deviation of initial embeddings; by default 0.3 / sqrt(dim)."""
    start: Literal["random", "low_rank"] = "random"
    """Initial vectors: random, or those of the closed form of width `dim`."""
    low_rank: int | None = None
    """Width of closed-form dims (0: none); by default chosen on a validation split."""
    low_rank_weight: float | None = None
    """Weight of the closed-form score, a mean over a user's n items times sqrt(n); by default chosen."""
    low_rank_penalty: float | None = None
    """Ridge penalty of the closed form (> 0, squared weights); by default chosen on a validation split."""
    user_id: bool | None = None
    """Give each user a row of a table in the query tower; by default, with an ordered history only from 32
    interactions a user on."""
    hashed_rows: int | None = None
    """Rows of the tables of user and item ids if two hashes of an id give it two of them (at least 2); by
    default a row an id. They do not grow, and ids that arrive between trainings have rows at once."""
    history: HistoryName | bool | None = None
    """What the query tower knows of a user's items: nothing, a `bag` in a table with a row an item, or their
    order: vectors that decay with `recency`, or a `transformer` on top of these. By default none or, where
    the split goes by time, what a validation split shows to be better."""
    history_dropout: float = 0.8
    """Share of a user's items that a step hides from a bag and predicts (between 0 and 1)."""
    history_length: int = 50
    """Last items that an ordered history holds."""
    history_table: Literal["tied", "own", "both"] = "both"
    """Vectors of items in an ordered history: those of the candidate tower, of a table of their own, or the
    sum of both."""
    history_decay: Literal["position", "time", "both"] = "both"
    """An item of an ordered history weighs less by its distance from the last one: by position, by time, or
    by both where there are timestamps."""
    vector_dropout: float = 0.6
    """Share of the values of the vectors in ordered histories that a step sets to zero (0 to below 1)."""
    item_id_dropout: float = 0.0
    """Share of a step's candidates known by their attributes alone, as a new item is (0 to below 1). Above 0,
    the bias of an item is what its attributes let expect, and what its interactions say beyond."""
    new_item_boost: float = 0.0
    """Added to the scores of items without training interactions; a negative one gives them fewer places."""
    user_features: list[str] = field(default_factory=list)
    """User attributes in the query tower, e.g. `gender`: a table each; numbers and vectors a linear layer."""
    item_features: list[str] = field(default_factory=list)
    """Item attributes in the candidate tower, e.g. `genres`: a table each; numbers and vectors a layer."""
    hidden: list[int] = field(default_factory=list)
    """Widths of dense layers per tower, added to the combined embeddings (empty: no dense layers)."""
    combine: Literal["sum", "concat"] = "sum"
    """`sum` adds a tower's features, each `dim` wide; `concat` joins them, with equal shares of `dim`."""


@dataclass(frozen=True)
class LossConfig:
    """What a step minimises, and over which candidates."""

    name: LossName = "softmax"
    """`softmax` and `bpr` rank positives above candidates; `mse` and `bce` fit each interaction's value."""
    candidates: Literal["auto", "catalogue", "in_batch", "sampled"] = "auto"
    """Items scored in one step: all (`auto` up to 20,000), its positives, or a shared sample beside them."""
    samples: int | None = None
    """Items drawn for `candidates: sampled` in one step, over all ranks; by default 8,192."""
    popularity_power: float = 0.0
    """`candidates: sampled` draws by training interactions to this power (0: every item alike, up to 1)."""
    logq: bool = True
    """Subtract the log probability that a candidate is in the candidate set from its logit."""
    mask_known: bool = True
    """A user's other training items are no negatives (otherwise only the positive itself is left out). With
    `rows: next` those at most 100 or `history_length` places before or after the positive, the larger one."""
    user_weight_power: float = 0.4
    """A row of `rows: user` weighs (number of its training items) to this power (0: every user alike)."""
    positive_value: float = 4.0
    """`bce` takes a value of at least this as 1 and a smaller one as 0."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How tables and dense layers are updated."""

    name: Literal["auto", "rowwise_adagrad", "adagrad", "sgd", "adam", "adam_fused"] = "auto"
    """Optimizer of the tables; `auto` is `adam` while float32 and small (64 MiB), else `rowwise_adagrad`.
    `adam` updates all rows in every step; `adam_fused`, on CUDA alone, those that are looked up."""
    learning_rate: float | None = None
    """Peak learning rate of the tables; by default by the optimizer."""
    table_learning_rates: dict[str, float] = field(default_factory=dict)
    """Peak rate by table where it differs: `user`, `item`, `item_bias` or a name in `plan.json`."""
    dense_learning_rate: float = 0.001
    """Peak learning rate of dense layers and of the temperature, which are trained with Adam."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """Adam's decay rates (beta 1, beta 2) of the mean and mean squared gradient (0 to below 1)."""
    weight_decay: float = 0.0
    """L2 penalty on all rows of the tables; fused kernels have none (`adam` is dense)."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Course of the learning rates after the warm-up; `linear` and `cosine` end at zero."""
    clip_gradients: float | None = None
    """Largest L2 norm of the dense layers' gradients in a step; larger ones are scaled down to it."""
    warmup: float = 0.1
    """Share of all steps in which learning rates rise linearly from zero (0 to 1)."""


@dataclass(frozen=True)
class ShardingConfig:
    """How tables are laid over ranks."""

    kind: Literal[
        "table_wise",
        "row_partitioned",
        "column_wise",
        "row_wise",
        "table_row_wise",
        "table_column_wise",
        "data_parallel",
        "auto",
    ] = "table_wise"
    """Sharding of every table: one rank each, cut by rows or columns, copies, or the planner's choice."""
    tables: dict[str, str] = field(default_factory=dict)
    """Sharding by table where it differs: `user`, `item` or a name in `plan.json`."""
    partitions: dict[str, int] = field(default_factory=dict)
    """Partitions of a `row_partitioned` table, by table; by default one per rank."""
    ranks: dict[str, list[int]] = field(default_factory=dict)
    """Ranks that hold a table's shards, in turn, by table; by default the planner's choice."""
    uvm_caching: bool = False
    """Tables that a GPU cannot hold may live in its host's memory behind a cache (CUDA, fused kernels)."""
    communication: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of pooled vectors and gradients that ranks exchange; no effect on one rank or on copies."""
    lookup: Literal["auto", "torchrec"] = "auto"
    """`auto` looks up rows that a rank has itself directly (on GPUs: with one rank); `torchrec` never."""
    exchange_ahead: bool = False
    """Send ids to the ranks of their tables while the steps before compute; the results are the same."""
    plan: str | None = None
    """File of a plan that was saved, to be followed exactly; kinds, partitions and ranks are then ignored."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is evaluated, on which split, by which protocol."""

    split: Literal["test", "validation"] = "test"
    """Split whose interactions are to be found."""
    seen: Literal["mask", "keep"] = "mask"
    """`keep` ranks a user's earlier items too, `mask` does not; validation during training always masks."""
    k: list[int] = field(default_factory=lambda: [10])
    """Lengths of the ranked list at which metrics are taken."""
    baselines: list[str] = field(default_factory=lambda: ["popularity", "random"])
    """Rankers beside the model: popularity, random, low_rank, and up to 20,000 items item_knn, ease; where
    interactions have an order, markov (by a user's last item) and, up to 20,000 items, item_knn_last."""
    chunk: int = 4096
    """Users scored at a time, which bounds memory."""
    sharded: bool = False
    """Every rank scores its own users, instead of rank 0 all of them; the numbers are the same."""


@dataclass(frozen=True)
class RunConfig:
    """The run folder and the length of the training."""

    dir: str | None = None
    """Run folder; by default a new one under `runs/`, named after data, loss and time."""
    seed: int = 42
    """Seed of initial embeddings, of the order of batches and of sampled candidates."""
    epochs: int | None = None
    """Passes over the rows; by default 30 but at least 320 steps, fewer from 1,000,000 interactions."""
    log_every: int = 50
    """Steps between two records of the loss (0: an epoch)."""
    evaluate_every: int | None = None
    """Epochs between evaluations on the validation split (0: none); by default 20 of them if there is one."""
    patience: int | None = None
    """Evaluations without a better metric until it stops, best weights kept (0: last); by default 10."""
    save_every: int = 0
    """Steps between checkpoints from which a training resumes after a crash (0: none)."""
    save_async: bool = False
    """Write checkpoints in a thread during training; this takes a copy of tables and states."""
    keep_last: int = 2
    """How many of these checkpoints stay, the last ones."""
    keep_best: int = 0
    """How many checkpoints with the best validation figures stay (with patience at least the best)."""
    metric: Literal["ndcg", "recall", "precision", "hit_rate", "mrr", "map"] = "ndcg"
    """Validation metric that decides which weights are best, at the first `evaluation.k`."""
    on_save_failure: Literal["continue", "stop"] = "continue"
    """What a training does when a checkpoint on the way cannot be written, as on a full disk."""
    origin: str | None = None
    """Run folder whose vectors known users and items begin with; `--from RUN` sets it."""
    removed: Literal["drop", "keep"] = "drop"
    """Users and items of `origin` without training data now: `drop`, or `keep` (served, not evaluated)."""
    choose: bool = True
    """Tune null options that the data size does not decide on a validation split; else use fixed values."""
    tensorboard: bool = True
    """Write TensorBoard events into the run folder."""
    trackers: list[Literal["mlflow", "wandb"]] = field(default_factory=list)
    """Experiment trackers to write to as well; their own environment variables say where and how."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a training run."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of every rank; `auto` takes CUDA where there is a GPU for each local rank."""
    deterministic: bool = False
    """Repeat a training to the last bit on CUDA too: on the same GPUs, ranks and versions, but slower."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Collectives of the process group; `auto` takes NCCL on CUDA and gloo on CPU."""
    timeout: float = 1800.0
    """Seconds that a rank waits for the others in a collective before it gives up."""
