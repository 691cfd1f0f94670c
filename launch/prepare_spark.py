"""Prepare data that one host cannot read in a night, as a Spark job.

It writes what `python -m trainer prepare` writes with the same options, byte for byte and under the same
name, so that `train` finds it and reads nothing. Options are those of `prepare`:

    python launch/prepare_spark.py --config shop.yaml                       # all cores of this machine
    spark-submit --master yarn --py-files trainer.zip launch/prepare_spark.py --config shop.yaml

Further options:
  --table NAME          First write a table that Spark reads (shop.orders, or parquet.`s3a://bucket/orders`)
                        as Parquet into the folder --data.interactions, which must not exist yet.
  --user-buckets N --out FOLDER
                        In place of the prepared form write cleaned interactions, partitioned into N buckets
                        of users, for hosts that keep their own users alone (--data.share users).

Before spark-submit, change or do:
  - trainer.zip: `zip -r trainer.zip trainer` in this repository; executors import it. They need Python with
    what `pip install '.[light]'` installs, and no torch; PYSPARK_PYTHON names such an interpreter.
  - --data.interactions, a folder of part files (each is read by one task), and --data.cache, where the
    prepared form goes, must be the same absolute paths on the driver and on all executors, as on NFS.

Needs pyspark 4 (`pip install 'pyspark>=4.0'`) and Java 17.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer.command_line.arguments import Parser, configuration, count
from trainer.errors import ConfigError, UserError


def main(arguments: list[str]) -> int:
    """Prepare, and say what was understood; return the exit code."""
    parser = Parser(prog="launch/prepare_spark.py", add_help=False)
    parser.add_argument("--table")
    parser.add_argument("--user-buckets", type=count)
    parser.add_argument("--out", type=Path)
    try:
        asked, options = parser.parse_known_args(arguments)
        config = configuration("launch/prepare_spark.py", options, __doc__ or "")
        if config is None:
            return 0
        if (asked.user_buckets is None) != (asked.out is None):
            raise ConfigError("--user-buckets N and --out FOLDER go together. Give both, or neither")
        from trainer.dataset.dataset import open_dataset
        from trainer.reporting.dataset_summary import summary_text
        from trainer.spark.refusals import refuse
        from trainer.spark.session import start_session

        refuse(config.data)
        spark = start_session()
        from trainer.spark.job import prepare_with
        from trainer.spark.tables import write_buckets, write_table

        if asked.table:
            write_table(spark, asked.table, config.data)
        if asked.out:
            print(write_buckets(spark, config.data, asked.user_buckets, asked.out))
        else:
            print(summary_text(open_dataset(prepare_with(spark, config.data))))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
