from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from tests.service.standin import StandIn, write_export
from trainer.service.app import make_app
from trainer.service.export import CurrentExport
from trainer.service.limits import Limits


@pytest.fixture(scope="module")
def make_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TestClient]:
    """Serve the small world, with other limits, keys or recommender where a test wants them."""

    def make(limits: Limits | None = None, keys: list[str] | None = None, opener=StandIn.open) -> TestClient:
        current = CurrentExport(write_export(tmp_path_factory.mktemp("service") / "films"), opener)
        client = TestClient(make_app(current, limits or Limits(), keys or ()))
        client.current = current
        return client

    return make


@pytest.fixture(scope="module")
def client(make_client: Callable[..., TestClient]) -> TestClient:
    return make_client()
