"""`report`: the page of a run, or of several compared, from their folders and their data."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from trainer.atomic_write import write_text
from trainer.errors import ConfigError
from trainer.report.facts import RunFacts, labels, read_run

PACKAGES = {"altair": "altair", "vl_convert": "vl-convert-python"}
"""Packages that draw the charts: how they are imported, and how they are installed."""
PAGE = "report.html"
LARGEST = 2**30
"""Bytes of tables up to which items are mapped and users shown: they are opened whole for it."""
MOST_NAMED = 3


def write_report(
    runs: Sequence[Path], out: Path | None = None, colour: str | None = None, options: Sequence[str] = ()
) -> Path:
    """Write one page on a run, or one that compares several.

    Args:
        runs: Run folders, the one that others are compared with first.
        out: File; None: `report.html` in the run folder, or for several runs a file in the current folder.
        colour: Item attribute that colours the map; None: the first that suits it.
        options: Where data lie that have moved, as on the command line: `--data.root DIR`.

    Returns:
        The file.

    Raises:
        ConfigError: A package is missing, a run is named twice, the file cannot be written, or an option says
            something else than where data lie.
        CheckpointError: A folder is no finished run.
    """
    _check_packages()
    names = labels(list(runs))
    if len({run.resolve() for run in runs}) < len(runs):
        raise ConfigError(f"{' '.join(map(str, runs))}: a run is named twice. Name each once")
    found = [read_run(run, name) for run, name in zip(runs, names, strict=True)]
    target = out or default_file(runs, names)
    _check_target(target)
    _check_options(runs, options)
    text = _page_of_one(found[0], colour, options) if len(found) == 1 else _page_of_several(found, options)
    try:
        write_text(target, text)
    except OSError as error:
        raise _unwritable(target, error) from error
    return target


def default_file(runs: Sequence[Path], names: Sequence[str]) -> Path:
    """Return where the page goes if no file is named."""
    if len(runs) == 1:
        return runs[0] / PAGE
    shown = [Path(name).name for name in names[:MOST_NAMED]]
    if len(names) > MOST_NAMED:
        shown.append(f"{len(names) - MOST_NAMED}-more")
    return Path(f"report-{'-and-'.join(shown)}.html")


def _page_of_one(run: RunFacts, colour: str | None, options: Sequence[str]) -> str:
    from trainer.report.examples import examples
    from trainer.report.item_map import map_items
    from trainer.report.measurement import measure
    from trainer.report.run_page import run_page
    from trainer.runs.run_folder import weight_bytes

    measured = measure(run, options=options)
    small = weight_bytes(run.folder) <= LARGEST
    users = examples(run) if small else None  # they leave the vectors that the map is made of
    return run_page(run, measured, users, map_items(run, colour) if small else None).text()


def _page_of_several(runs: Sequence[RunFacts], options: Sequence[str]) -> str:
    from trainer.report.comparison import comparison_page

    return comparison_page(runs, options).text()


def _check_packages() -> None:
    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"report: {' and '.join(missing)} not installed, which the charts need. Run: pip install "
            f"{' '.join(missing)}"
        )


def _check_target(target: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed."""
    if target.is_dir():
        raise ConfigError(f"--out {target}: is a folder. Name a file, as {target / PAGE}")
    if not target.parent.is_dir():
        raise ConfigError(f"--out {target}: no such folder. Name a file in one that exists")


def _check_options(runs: Sequence[Path], options: Sequence[str]) -> None:
    """Refuse options that say anything else than where data lie."""
    from trainer.runs.run_folder import run_config

    for option in options:
        if option.startswith("-") and not option.startswith("--data."):
            raise ConfigError(
                f"{option}: not an option of report. It takes --out, --colour and --data.*, as --help says"
            )
    for run in runs:
        run_config(run, options)


def _unwritable(target: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{target}: cannot be written ({error.strerror}). Name another file: --out FILE.html")
