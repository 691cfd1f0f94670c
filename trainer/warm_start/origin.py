"""The earlier run that a training begins with, and the data that go with it."""

from dataclasses import dataclass
from pathlib import Path

from trainer.batching.tower_inputs import (
    Inputs,
)
from trainer.config.resolved import ResolvedConfig
from trainer.config.resume import check_shape
from trainer.config.schema import Config
from trainer.dataset.prepare import prepare_data
from trainer.dataset.vocabulary import Vocabulary, open_vocabulary
from trainer.distributed.world import World
from trainer.object_storage.copies import open_place
from trainer.runs.checkpoint_store import SavedCheckpoint, finished_step, has_checkpoint, newest
from trainer.runs.data_digest import standing_form
from trainer.runs.run_folder import LEARNED, run_config, run_inputs
from trainer.warm_start.retained_ids import extend


@dataclass(frozen=True)
class Origin:
    """An earlier run that a training begins with.

    Attributes:
        run: Its folder.
        config: Its configuration.
        checkpoint: Its newest checkpoint.
        vocabulary: What rows of its tables stand for.
        user_inputs: What its users look up.
        item_inputs: What its items look up.
    """

    run: Path
    config: ResolvedConfig
    checkpoint: SavedCheckpoint
    vocabulary: Vocabulary
    user_inputs: Inputs
    item_inputs: Inputs

    @property
    def optimizer_steps(self) -> int:
        """Steps that its optimizers have taken, including those that it took over itself."""
        return self.checkpoint.step + self.checkpoint.progress.origin_steps


def open_origin(run: Path, config: Config, world: World) -> Origin:
    """Open an earlier run that a training under `config` can begin with; rank 0 verifies its files.

    Raises:
        CheckpointError: It is not a run folder, is damaged, or has no checkpoint.
        ConfigError: The model would have another shape.
    """
    before = run_config(run)
    check_shape(run, before, config)
    checkpoint = world.on_first(lambda: newest(run, finished_step(run)))
    return Origin(run, before, checkpoint, open_vocabulary(run), *run_inputs(run, LEARNED))


def prepare_with_retained(config: Config, run: Path | None) -> Path:
    """Return the folder of the prepared data, with ids retained from an earlier run if the options say so.

    Args:
        config: Configuration of the training.
        run: Run folder of the training, if it has one. Once that holds a checkpoint, it knows the retained
            ids itself, and the earlier run may be gone.

    Raises:
        CheckpointError: The earlier run is at fault.
        DataError: The data are at fault.
    """
    if run and (form := standing_form(run, config.data)):
        return form
    origin = open_place(config.run.origin) if config.run.origin else None
    folder = standing_form(origin, config.data, retained=False) if origin else None
    folder = folder or prepare_data(config.data)
    if config.run.removed == "drop" or origin is None:
        return folder
    source = run if run and has_checkpoint(run) else origin
    newest(source)  # refuses a damaged run
    return extend(folder, open_vocabulary(source), *run_inputs(source, LEARNED))
