"""What is wrong in files, or was left out of them: stopped at, or counted and told to the user."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trainer.errors import DataError


@dataclass
class BadRows:
    """Counts lines that cannot be read, or stops at the first; keeps what is to be said of files.

    Attributes:
        policy: `error` raises at the first bad line, `skip` counts it.
        skipped: Lines skipped so far.
        remedy: What the error tells the user to do.
        remarks: The files of which each remark holds.
    """

    policy: Literal["error", "skip"] = "error"
    skipped: int = 0
    remedy: str = "Skip such lines: --data.bad_rows skip"
    remarks: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Return a sentence a remark, on the files of which it holds."""
        sentences = []
        for remark, files in self.remarks.items():
            others = f" and {len(files) - 1:,} other file{'s' if len(files) > 2 else ''}" if files[1:] else ""
            sentences.append(f"{files[0]}{others}: {remark}")
        return sentences

    def note(self, file: Path, remark: str) -> None:
        """Keep a remark on how a file was understood, or what of it was left out."""
        files = self.remarks.setdefault(remark, [])
        if file not in files:
            files.append(file)

    def found(self, place: str, fault: str, count: int = 1) -> None:
        """Count `count` bad lines, of which `fault` describes the first.

        Args:
            place: Where it stands, as `ratings.dat:48213`.
            fault: The value and the rule, as `rating is 'five', expected a number`.
            count: Number of bad lines.

        Raises:
            DataError: The policy is `error`.
        """
        if self.policy == "error":
            raise DataError(f"{place}: {fault}. {self.remedy}")
        self.skipped += count
