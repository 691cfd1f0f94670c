import errno
from unittest import mock

import pytest

from trainer.errors import StorageError
from trainer.object_storage import retries
from trainer.object_storage.retries import LONGEST_PAUSE, Outage, passes, retried


class HttpError(Exception):
    """As gcsfs raises it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"HTTP {code}")
        self.code = code


class EndpointConnectionError(Exception):
    """As botocore raises it, with a base class of this name."""


EndpointConnectionError.__module__ = "botocore.exceptions"
EndpointConnectionError.__name__ = "ConnectionError"


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionRefusedError(),
        OSError(errno.EBUSY, "SlowDown"),
        HttpError(503),
        HttpError(429),
    ],
)
def test_time_outs_throttling_and_faults_of_a_server_pass(error: Exception) -> None:
    assert passes(error)


def test_errors_are_known_by_package_and_class_without_importing_the_package() -> None:
    assert passes(EndpointConnectionError("connection refused"))
    assert not passes(ValueError("ConnectionError"))


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(),
        FileNotFoundError(),
        OSError(errno.ENOSPC, "disk full"),
        OSError("Forbidden: b/x"),
        HttpError(403),
        HttpError(404),
    ],
)
def test_refusals_missing_objects_and_a_full_disk_do_not_pass(error: Exception) -> None:
    assert not passes(error)


def test_an_operation_is_tried_until_it_succeeds_and_two_lines_say_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcomes = [TimeoutError("slow"), ConnectionResetError("gone"), "content"]
    with mock.patch.object(retries.time, "sleep") as sleep:
        assert retried(lambda: _next(outcomes), Outage("s3://b"), "s3://b/x") == "content"
    assert 0.25 <= sleep.call_args_list[0].args[0] <= 0.5
    assert 0.5 <= sleep.call_args_list[1].args[0] <= 1.0
    began, ended = capsys.readouterr().err.splitlines()
    assert began == "s3://b: does not answer (slow); trying again for up to 300 s"
    assert ended == "s3://b: answers again after 0 s"


def test_a_store_that_stays_away_is_named_with_the_limit_and_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHARDTOWER_STORE_RETRY_SECONDS", "60")
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        assert seconds <= LONGEST_PAUSE

    monkeypatch.setattr(retries.time, "sleep", sleep)
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    with pytest.raises(StorageError, match=r"s3://b/x: no answer within 60 s \(refused\)\. Start the same"):
        retried(lambda: _next([ConnectionRefusedError("refused")] * 99), Outage("s3://b"), "s3://b/x")
    assert 60 <= now[0] < 61


def test_what_does_not_pass_is_raised_at_once() -> None:
    outcomes = [PermissionError("denied"), "content"]
    with pytest.raises(PermissionError):
        retried(lambda: _next(outcomes), Outage("s3://b"), "s3://b/x")
    assert outcomes == ["content"]


def _next(outcomes: list) -> object:
    outcome = outcomes.pop(0)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
