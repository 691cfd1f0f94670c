from pathlib import Path

from trainer.exporting.listing import as_text

MANIFEST = {
    "users": 943,
    "items": 1682,
    "dim": 153,
    "dtype": "int8",
    "index": {"kind": "hnsw", "factory": "HNSW32,SQ8", "search": {"efSearch": 128}, "refine": 1},
    "checks": {
        "users": 940,
        "recall@10": 0.9911,
        "recall@100": 1,
        "ndcg@10": 0.4525,
        "ndcg@10_exact": 0.4528,
    },
    "files": {"items.parquet": {"bytes": 34_588}, "weights.safetensors": {"bytes": 1_722_968}},
}


def test_every_line_fits_a_terminal_and_the_columns_of_files_are_kept() -> None:
    lines = as_text(Path("export"), MANIFEST).splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(line.strip() for line in lines)
    assert "recall@10 0.9911, recall@100 1.0000 of the exact ranking; NDCG@10 0.4525, exact 0.4528" in text
    assert lines[-3:] == [
        "  items.parquet         34.6 kB",
        "  weights.safetensors   1.72 MB",
        "  in all                1.76 MB",
    ]
