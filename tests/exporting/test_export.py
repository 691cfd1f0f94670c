"""An export of a small run: what is in the folder, what is refused, and what is left when it fails."""

import json
import os
import pickletools
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from tests import exports, worlds
from trainer.cli import main
from trainer.errors import UserError
from trainer.exporting import publish
from trainer.exporting.export import Wishes, export
from trainer.recommender.manifest import MANIFEST
from trainer.recommender.recommender import Recommender
from trainer.runs.run_folder import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exports.trained(tmp_path_factory.mktemp("run"), *exports.ATTRIBUTES)


@pytest.fixture(scope="module")
def whole(run: Path) -> Path:
    assert main(["export", str(run), str(run.parent / "export"), "--index", "hnsw"]) == 0
    return run.parent / "export"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_vectors_and_ids_in_parquet_are_those_of_the_arrays(whole: Path) -> None:
    vectors = pq.read_table(whole / "item_vectors.parquet")
    array = np.load(whole / "item_vectors.npy")
    assert sorted(vectors["item"].to_pylist()) == list(exports.ITEMS)
    assert np.array_equal(np.array(vectors["vector"].to_pylist(), np.float32), array)
    items = pq.read_table(whole / "items.parquet")
    assert items["item"].type == vectors["item"].type == "int64"
    assert items["item"].equals(vectors["item"])
    rows = [item - worlds.FIRST_ITEM for item in items["item"].to_pylist()]
    assert items["title"].to_pylist() == [exports.TITLES[row] for row in rows]
    assert items["release_year"].to_pylist() == [1990 + row // 2 for row in rows]


def test_weights_are_those_of_the_checkpoint_by_their_names(run: Path, whole: Path) -> None:
    weights, trained = load_file(whole / "weights.safetensors"), open_run(run)
    for prefix, pair in zip(("learned", "closed"), trained.tower_pairs, strict=True):
        for name, tensor in pair.towers.state_dict().items():
            assert np.array_equal(weights.pop(f"{prefix}.{name}"), tensor.numpy())
    assert not weights


def test_the_manifest_names_every_other_file(whole: Path) -> None:
    manifest = json.loads((whole / MANIFEST).read_text())
    assert {*manifest["files"], MANIFEST} == {path.name for path in whole.iterdir()}
    assert manifest["index"]["kind"] == "hnsw"
    assert manifest["packages"]["numpy"] == np.__version__


def test_the_checks_of_exact_vectors_are_perfect_and_have_the_ndcg_of_the_evaluator(
    run: Path, whole: Path
) -> None:
    checks = json.loads((whole / MANIFEST).read_text())["checks"]
    evaluated = json.loads((run / "metrics.json").read_text())["model"]["ndcg@10"]
    assert (checks["recall@10"], checks["recall@100"], checks["users"]) == (1, 1, 32)
    assert checks["ndcg@10"] == checks["ndcg@10_exact"] == pytest.approx(evaluated, abs=1e-9)


def test_the_model_card_says_what_was_measured_and_how_to_open_it(run: Path, whole: Path) -> None:
    card = (whole / "README.md").read_text()
    evaluated = json.loads((run / "metrics.json").read_text())
    for ranker in ("model", "popularity", "random"):
        assert f"| {ranker} | {evaluated[ranker]['ndcg@10']:.4f} |" in card
    assert "Recommender.open(" in card
    assert "32 users and 16 items" in card
    assert all(f"`{path.name}`" in card for path in whole.iterdir() if path.name != "README.md")


def test_no_file_of_an_export_holds_a_pickle(whole: Path) -> None:
    kinds = {path.suffix for path in whole.iterdir()}
    assert kinds == {".parquet", ".npy", ".json", ".md", ".pt2", ".safetensors", ".faiss"}
    for path in whole.glob("*.npy"):
        np.load(path, allow_pickle=False)
    with zipfile.ZipFile(whole / "query.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, content in (*contents(whole).items(), *members.items()):
        # What torch, numpy or pickle itself write begins with a protocol from 2 up.
        assert not (content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")), name
        with pytest.raises(ValueError, match=r"."):
            list(pickletools.genops(content))


def test_the_same_run_gives_the_same_bytes_again(run: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export(run, tmp_path / name)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        Recommender.open(folder)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_missing_folder_and_one_without_a_manifest_are_no_exports(tmp_path: Path) -> None:
    assert "no such folder. Write one: python -m trainer export" in refusal(tmp_path / "none")
    assert "it has no manifest.json" in refusal(tmp_path)


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["item_vectors.npy", "weights.safetensors", "index.faiss", "query.pt2", "README.md"]
)
def test_a_damaged_file_is_refused_by_its_name(copy: Path, name: str) -> None:
    changed(copy / name)
    assert f"{name}: is not as it was written (its SHA-256 differs)" in refusal(copy)
    (copy / name).write_bytes((copy / name).read_bytes()[:-1])
    assert f"{name}: has " in refusal(copy)
    (copy / name).unlink()
    assert f"{name}: is missing" in refusal(copy)


def rewritten(folder: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_exports_of_another_format_or_version_and_changed_manifests_are_refused(copy: Path) -> None:
    rewritten(copy, lambda manifest: manifest.update(items=17))
    assert "manifest.json: is not as it was written" in refusal(copy)
    rewritten(copy, lambda manifest: manifest.update(version=2))
    assert "of version 2 of the format, and this program reads 1" in refusal(copy)
    rewritten(copy, lambda manifest: manifest.update(format="another"))
    assert "of the format 'another'" in refusal(copy)
    (copy / MANIFEST).write_text("{")
    assert "manifest.json: cannot be read" in refusal(copy)


def test_an_export_is_replaced_only_when_asked_for(
    run: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(copy)
    assert main(["export", str(run), str(copy)]) == 2
    assert f"error: {copy}: holds an export. Replace it with --replace" in capsys.readouterr().err
    assert contents(copy) == before
    assert main(["export", str(run), str(copy), "--dtype", "float16", "--replace"]) == 0
    assert np.load(copy / "item_vectors.npy").dtype == np.float16
    assert not (copy / "index.faiss").exists()
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_a_folder_that_is_no_export_is_never_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("")
    (tmp_path / "file").write_text("")
    for name, reason in (("own", "holds what is no export"), ("file", "is no folder of its own")):
        with pytest.raises(UserError, match=reason):
            export(run, tmp_path / name, Wishes(replace=True))
    assert contents(tmp_path / "own") == {"thesis.txt": b""}


def test_an_export_of_another_version_can_be_replaced(run: Path, copy: Path) -> None:
    rewritten(copy, lambda manifest: manifest.update(version=2))
    export(run, copy, Wishes(replace=True))
    Recommender.open(copy)


def test_folders_change_places_where_the_system_cannot_exchange_them(
    run: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "EXCHANGE", 2**20)  # a flag that no system knows
    export(run, copy, Wishes(replace=True))
    Recommender.open(copy)
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_nothing_is_left_of_an_export_that_fails_and_it_says_what_would_pass(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Three values a dimension: too coarse for any list.
    monkeypatch.setattr("trainer.recommender.vectors.LARGEST", 1)
    asked = ["export", str(run), str(tmp_path / "new"), "--dtype", "int8", "--min-recall", "1"]
    assert main(asked) == 2
    message = capsys.readouterr().err
    # Of 9 unseen items all are among the first 10, so that only their order fails.
    assert message.startswith("error: --min-recall 1: --dtype int8 --index none has recall@10 1.0000")
    assert "and NDCG@10 0.9" in message
    assert "for 1.0000 (32 users). What passes: --dtype float16 --index none" in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_has_left_is_removed_by_the_next_one(run: Path, tmp_path: Path) -> None:
    for process in (2**31 - 1, os.getppid()):  # no process has the first number, and one has the second
        (tmp_path / f".new.{process}.partial").mkdir()
    export(run, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"new", f".new.{os.getppid()}.partial"}


def test_wishes_that_cannot_be_met_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for wishes, message in (
        (Wishes(dtype="int4"), "--dtype int4: expected one of float32, float16, int8"),
        (Wishes(index="lsh"), "--index lsh: expected one of none, flat, hnsw, ivf_pq"),
        (Wishes(min_recall=98), "--min-recall 98: a number above 0 and up to 1"),
    ):
        with pytest.raises(UserError, match=message):
            export(tmp_path / "none", tmp_path / "new", wishes)


def test_a_product_quantisation_needs_items_to_be_trained_on(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--index ivf_pq: needs 1,000 items to be trained on, and there are 16"
    ):
        export(run, tmp_path / "new", Wishes(index="ivf_pq"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        export(tmp_path, tmp_path / "new")


def test_ids_of_text_stay_text(tmp_path: Path) -> None:
    train, withheld = worlds.checkerboard()
    run = worlds.trained(tmp_path, *worlds.options(tmp_path, train, withheld, lambda number: f"x{number}"))
    export(run, tmp_path / "export")
    found = Recommender.open(tmp_path / "export").recommend(user="x1001", k=3)
    assert found["item"].tolist()[0].startswith("x")
    assert found["title"].tolist() == [None, None, None]
