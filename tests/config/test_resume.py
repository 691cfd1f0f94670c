"""Which options a resumed run accepts."""

from pathlib import Path

import pytest

from trainer.config.parser import config_text, parse_config
from trainer.config.resume import continued_config
from trainer.errors import ConfigError


def test_a_file_of_vectors_may_be_named_by_another_path(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config_text(parse_config(["--data.item_vectors.image", str(tmp_path / "image.npz")])))
    monkeypatch.chdir(tmp_path)
    continued_config(file, ["--data.item_vectors.image", "image.npz"])
    with pytest.raises(ConfigError, match="goes on with it"):
        continued_config(file, ["--data.item_vectors.image", "other.npz"])
