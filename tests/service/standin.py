"""A small world for the service: an export folder, and a recommender whose answers are known without a model.

Sixty films; user u has the films u, u + 1 and u + 2. The score of film i is 60 - i, so that everybody is
recommended the films with the lowest numbers that they do not have; `version` of the manifest is added to
every score.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from trainer.errors import UserError

FILMS, USERS = 60, 40
GENRES = ("Comedy", "Drama", "Horror")
SPECIAL = {7: 'Amélie <script>alert(1)</script> & "friends"', 8: "千と千尋の神隠し (2001)"}


def write_export(folder: Path, version: int = 1, damaged: bool = False) -> Path:
    """Write an export, and the manifest last; a damaged one does not fit its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    body = json.dumps({"films": FILMS, "version": version})
    (folder / "items.json").write_text(body + (" " if damaged else ""))
    digest = hashlib.sha256(body.encode()).hexdigest()
    manifest = {"checkpoint": {"step": 100 * version}, "ordered": True, "version": version, "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def title(film: int) -> str | None:
    return SPECIAL.get(film, None if film == 9 else f"Film {film} ({1960 + film})")


class StandIn:
    """The contract of `trainer.recommender.recommender.Recommender` over the small world."""

    slow = 0.0
    """Seconds that each recommendation takes longer."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = manifest
        self.version = manifest["version"]
        self.user_ids = pa.array(range(USERS))
        self.items = pa.table(
            {
                "item": pa.array(range(FILMS)),
                "title": pa.array([title(film) for film in range(FILMS)]),
                "genres": pa.array([[GENRES[film % 3]] for film in range(FILMS)]),
                "release_year": pa.array([None if film == 9 else 1960 + film for film in range(FILMS)]),
            }
        )

    @classmethod
    def open(cls, folder: Path) -> "StandIn":
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            body = (folder / "items.json").read_bytes()
        except OSError as error:
            raise UserError(
                f"{folder}: no export. Write one: python -m trainer export RUN {folder}"
            ) from error
        if hashlib.sha256(body).hexdigest() != manifest["sha256"]:
            raise UserError(f"{folder / 'items.json'}: is damaged. Export the run again")
        return cls(manifest)

    def recommend(
        self,
        user: str | int | None = None,
        history: Sequence[str | int] | None = None,
        k: int = 10,
        *,
        attributes: dict | None = None,
        where: Sequence[str] = (),
        allow: Sequence[str | int] | None = None,
        deny: Sequence[str | int] = (),
        at_most: dict[str, int] | None = None,
        keep_seen: bool = False,
        why: int = 0,
    ) -> pd.DataFrame:
        time.sleep(self.slow)
        given = self._known(history or ())
        past = self._past(user) if user is not None else given
        films = [film for film in range(FILMS) if keep_seen or film not in past]
        films = [film for film in films if self._fits(film, where) and str(film) not in set(map(str, deny))]
        if allow is not None:
            films = [film for film in films if str(film) in set(map(str, allow))]
        frame = self._ranked(films[:k])
        if why:
            frame["why"] = [list(reversed(past))[:why] for _ in range(len(frame))]
        texts = {self._text(film) for film in given} | {str(film) for film in given}
        frame.attrs["unknown"] = [str(each) for each in history or () if str(each) not in texts]
        frame.attrs["notes"] = []
        return frame

    def recommend_many(
        self,
        users: Sequence[str | int] | None = None,
        histories: Sequence[Sequence[str | int]] | None = None,
        k: int = 10,
        *,
        where: Sequence[str] = (),
    ) -> pd.DataFrame:
        if users is not None:
            frames = [self.recommend(user, k=k, where=where).assign(user=user) for user in users]
        else:
            lists = [self.recommend(history=history, k=k, where=where) for history in histories or ()]
            frames = [frame.assign(query=number) for number, frame in enumerate(lists)]
        name = "user" if users is not None else "query"
        whole = pd.concat(frames) if frames else self._ranked([]).assign(**{name: []})
        whole.attrs = {}
        return whole

    def similar(self, item: str | int, k: int = 10, *, where: Sequence[str] = ()) -> pd.DataFrame:
        place = self._film(item)
        films = [film for film in range(FILMS) if film != place and self._fits(film, where)]
        return self._ranked(sorted(films, key=lambda film: abs(film - place))[:k])

    def past(self, user: str | int) -> pd.DataFrame:
        films = self._past(user)
        return pd.DataFrame({"item": films, "title": [title(film) for film in films]})

    def find_titles(self, text: str, limit: int = 10) -> pd.DataFrame:
        films = [film for film in range(FILMS) if text.lower() in (title(film) or "").lower()][:limit]
        return pd.DataFrame({"item": films, "title": [title(film) for film in films]})

    def _past(self, user: str | int) -> list[int]:
        if str(user) not in set(map(str, range(USERS))):
            raise UserError(f"user {user}: no such user. Known ids are 0, 1, 2; or give a history")
        return [int(user), int(user) + 1, int(user) + 2]

    def _known(self, history: Sequence[str | int]) -> list[int]:
        names = {self._text(film): film for film in range(FILMS)} | {str(film): film for film in range(FILMS)}
        return [names[str(each)] for each in history if str(each) in names]

    def _film(self, item: str | int) -> int:
        if str(item) not in set(map(str, range(FILMS))):
            raise UserError(f"item {item}: no such item")
        return int(item)

    def _fits(self, film: int, where: Sequence[str]) -> bool:
        for condition in where:
            name, sign, value = condition.partition(">=" if ">=" in condition else "=")
            if not sign or name not in ("genres", "release_year"):
                raise UserError(f"--where {condition}: no such attribute; there are genres, release_year")
            if name == "genres" and GENRES[film % 3] != value:
                return False
            if name == "release_year" and not (film != 9 and 1960 + film >= float(value)):
                return False
        return True

    def _text(self, film: int) -> str:
        return title(film) or ""

    def _ranked(self, films: Sequence[int]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "rank": range(1, len(films) + 1),
                "item": films,
                "title": [title(film) for film in films],
                "score": [float(FILMS - film + self.version) for film in films],
            }
        )
