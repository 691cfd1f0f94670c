"""Prepare data that one host cannot read in a night, as a Spark job.

It writes what `python -m trainer prepare` writes with the same options, byte for byte, so that `train` finds it
and reads nothing:

    python launch/prepare_spark.py --config shop.yaml                       # all cores of this machine
    spark-submit --master yarn --py-files trainer.zip launch/prepare_spark.py --config shop.yaml

Before the second, change or do:
  - trainer.zip: `zip -r trainer.zip trainer` in this repository, which the executors import. They need Python
    with numpy, pandas, pyarrow, scipy and filelock, and no torch: `pip install '.[light]'`, or PYSPARK_PYTHON
    names an interpreter that has them.
  - --data.interactions, a folder of part files (each is read by one task), and --data.cache, where the prepared
    form goes, must be the same paths on the driver and on all executors: NFS, Lustre, a mounted bucket.
  - --table NAME first writes a table that Spark can read (`shop.orders`, or parquet.`s3a://bucket/orders`) as
    Parquet into --data.interactions.

Needs pyspark 4 (`pip install 'pyspark>=4.0'`) and Java 17.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainer.errors import UserError


def main(arguments: list[str]) -> int:
    """Prepare, and say what was understood; return the exit code."""
    try:
        from trainer.command_line.arguments import configuration

        config = configuration("launch/prepare_spark.py", arguments, __doc__ or "")
        if config is None:
            return 0
        from trainer.dataset.dataset import open_dataset
        from trainer.dataset.prepare import prepare_data
        from trainer.reporting.dataset_summary import summary_text
        from trainer.spark.session import start_session

        spark = start_session()
        from trainer.spark.job import builder, refuse

        refuse(config.data)
        print(
            summary_text(
                open_dataset(prepare_data(config.data, build_with=builder(config.data, lambda: spark)))
            )
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
