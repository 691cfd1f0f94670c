"""What was understood of a data set, as text: what `prepare` prints, and what `train` says of its split."""

from trainer.dataset.dataset import Dataset
from trainer.formatting import format_count


def repeats_text(dataset: Dataset) -> str | None:
    """Return what became of repeats in the test split, as a sentence; None if there are none."""
    for name, outcome in (
        ("repeats_dropped", "left out; --data.repeats keep counts them"),
        ("repeats_kept", "counted, as --data.repeats keep asks"),
    ):
        if count := int(dataset.report.get(name, 0)):
            verb = "repeats" if count == 1 else "repeat"
            return (
                f"{format_count(count, 'interaction')} in the time of the test part {verb} what a user had "
                f"before it: {outcome}."
            )
    return None
