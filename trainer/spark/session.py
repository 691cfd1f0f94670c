"""A Spark session, and one line where Spark or Java is missing."""

import os
import shutil
import sys
from typing import TYPE_CHECKING

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DEFAULTS = {
    "spark.app.name": "shardtower prepare",
    "spark.driver.maxResultSize": "0",  # the ids of users and items come to the driver, and may be many
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "100000",
    "spark.sql.inMemoryColumnarStorage.compressed": "false",  # what is kept goes to disk, and is read once
    # Catalogues are sent to all tasks rather than sorted by item.
    "spark.sql.autoBroadcastJoinThreshold": str(256 << 20),
    # Groups are as large as we ask for; Spark would merge and split them as it goes.
    "spark.sql.adaptive.enabled": "false",
}
"""Settings of the job, where spark-submit was given no others."""


def start_session() -> "SparkSession":
    """Return the session of spark-submit or, started as an ordinary script, one on all cores of this machine.

    Raises:
        ConfigError: pyspark or Java is missing, or Spark does not start.
    """
    try:
        from pyspark import SparkConf
        from pyspark.errors import PySparkRuntimeError
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise ConfigError(
            f"prepare_spark needs pyspark ({error}). Install it: pip install 'pyspark>=4.0'"
        ) from None
    java_home = os.environ.get("JAVA_HOME")
    java = os.path.join(java_home, "bin", "java") if java_home else "java"
    if shutil.which(java) is None:
        raise ConfigError(
            f"prepare_spark needs Java 17 or newer, and {java} is not there. Install it (such as apt-get "
            "install openjdk-17-jre-headless), or name its folder in JAVA_HOME"
        )
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    asked = SparkConf()
    settings = {name: value for name, value in DEFAULTS.items() if not asked.contains(name)}
    if not asked.contains("spark.master"):
        settings |= {"spark.master": "local[*]", "spark.ui.enabled": "false"}
    builder = SparkSession.builder
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except PySparkRuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"Spark does not start ({reason}). It needs Java 17 or newer: see the lines above"
        ) from None
    session.sparkContext.setLogLevel("ERROR")
    return session
