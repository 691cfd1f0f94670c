"""The table of sharding kinds: it agrees with the options and TorchRec, and a kind added there is planned."""

import json
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

from trainer.config.parser import parse_config
from trainer.config.schema import ShardingConfig
from trainer.errors import ConfigError
from trainer.facts.sharding_kinds import SHARDING_KINDS, ShardingKind, sharding_kind
from trainer.inspection.plan_report import Outputs, report_of_scenario
from trainer.inspection.scenario import make_scenario
from trainer.planning import plan_check, traffic

ROWS = {"user": 1000, "movie": 500}


def printed(kind: str, *, hardware: str = "cpu", as_json: bool = True) -> str:
    """What `plan` prints for a kind of sharding that the parser need not know."""
    config = parse_config(["--model.dim", "16", "--optimizer.name", "adagrad"])
    config = replace(config, sharding=replace(config.sharding, kind=kind))
    scenario = make_scenario(config, ROWS, hardware=hardware, world_size=4, local_world_size=None)
    return report_of_scenario(scenario, Outputs(as_json=as_json, save=None, picture=None, compare=None))


def test_the_options_are_the_kinds_of_the_table() -> None:
    options = get_args(get_type_hints(ShardingConfig)["kind"])
    assert sorted(options) == sorted([*SHARDING_KINDS, "auto"])


@pytest.mark.parametrize("kind", SHARDING_KINDS.values(), ids=list(SHARDING_KINDS))
def test_every_fact_of_a_kind_has_code_for_it(kind: ShardingKind) -> None:
    assert kind.collective in traffic.COLLECTIVES
    assert kind.cut in plan_check.COVERS
    assert kind.cut in plan_check.NEEDS
    for device in kind.devices:
        assert kind.torchrec_name in EmbeddingBagCollectionSharder().sharding_types(device)


@pytest.mark.parametrize("kind", SHARDING_KINDS)
def test_every_kind_is_planned_where_it_exists_and_refused_elsewhere(kind: str) -> None:
    for device, hardware in (("cpu", "cpu"), ("cuda", "h100-80g")):
        if device in SHARDING_KINDS[kind].devices:
            tables = json.loads(printed(kind, hardware=hardware))["tables"]
            assert {table["sharding"] for table in tables} == {kind}
        else:
            with pytest.raises(ConfigError, match=f"--sharding.kind {kind}: not on CPU"):
                printed(kind, hardware=hardware)


def test_a_new_kind_needs_no_more_than_an_entry_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = replace(SHARDING_KINDS["column_wise"], name="striped")
    monkeypatch.setitem(SHARDING_KINDS, "striped", toy)
    striped, by_columns = (json.loads(printed(kind)) for kind in ("striped", "column_wise"))
    assert {table["sharding"] for table in striped["tables"]} == {"striped"}
    assert striped["ranks"] == by_columns["ranks"]
    assert "striped" in printed("striped", as_json=False)


def test_a_new_kind_that_torchrec_does_not_have_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = replace(SHARDING_KINDS["column_wise"], name="spiral", torchrec_name="spiral")
    monkeypatch.setitem(SHARDING_KINDS, "spiral", toy)
    with pytest.raises(
        ConfigError, match=r"--sharding.kind spiral: TorchRec has no sharding type spiral on cpu"
    ):
        printed("spiral")


def test_a_kind_that_is_not_in_the_table_is_refused_wherever_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"^wise: no such kind of sharding. Use one of table_wise, "):
        sharding_kind("wise")
    with pytest.raises(ConfigError, match="wise: no such kind"):
        printed("wise")
    with pytest.raises(ConfigError, match="wise: no such kind"):
        traffic.add_table(traffic.Traffic.none(2), "wise", [(0, 1, 4)], traffic.Lookups(1, 1.0), 2)
