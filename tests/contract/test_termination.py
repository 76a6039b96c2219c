"""What the runtime leaves in the termination log is what the operator reads."""

import json
import re

import pytest

from wenxin_operator.pods import Problem, termination
from wenxin_runtime import errors


@pytest.mark.parametrize("kind", [errors.ConfigError, errors.CheckpointError, errors.EngineDied])
def test_a_fatal_error_of_the_runtime_becomes_a_reason_of_a_condition(kind: type[errors.RuntimeFailure]) -> None:
    words = json.dumps({"reason": kind.reason, "message": "config.json: 缺少"}, ensure_ascii=False)
    assert termination({"exitCode": kind.exit_code, "message": words}) == Problem(kind.reason, "config.json: 缺少")
    assert re.fullmatch(r"[A-Z][A-Za-z]+", kind.reason)
