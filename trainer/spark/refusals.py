"""What the Spark job does not do, said before Spark starts."""

from trainer.config.schema import DataConfig
from trainer.errors import ConfigError
from trainer.object_storage.urls import is_url
from trainer.sources.configured import TABLES


def refuse(data: DataConfig) -> None:
    """Refuse what this job does not do.

    Raises:
        ConfigError: An option asks for it.
    """
    if data.negatives != "drop":
        raise ConfigError(
            f"--data.negatives {data.negatives}: prepare_spark writes no explicit negatives. Leave it out, "
            "or prepare on one host: python -m trainer prepare"
        )
    for option in TABLES:
        if (place := getattr(data, option)) is not None and is_url(place):
            raise ConfigError(
                f"--data.{option} {place}: executors read files. Name a folder that all of them see; --table "
                "parquet.`s3a://...` first copies interactions into it"
            )
