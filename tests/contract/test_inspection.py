"""What the runtime finds in a checkpoint is what the operator writes into a model's status."""

from pathlib import Path

import msgspec
import pytest

from tests.contract.inspected import EXPERTS, INSPECTED
from wenxin_operator.api.parsing import parse
from wenxin_operator.api.status import ModelFacts
from wenxin_runtime import fixture, weights

KINDS = pytest.mark.parametrize(("arch", "made_up"), [("ernie4_5", INSPECTED), ("ernie4_5_moe", INSPECTED | EXPERTS)])


@KINDS
def test_the_made_up_result_has_the_fields_of_a_real_one(arch: str, made_up: dict[str, object], tmp_path: Path) -> None:
    printed = msgspec.json.decode(msgspec.json.encode(weights.inspect(fixture.write(tmp_path, arch=arch))))
    assert {name: type(value) for name, value in printed.items()} == {
        name: type(value) for name, value in made_up.items()
    }


@KINDS
def test_the_operator_takes_every_fact_over(arch: str, made_up: dict[str, object], tmp_path: Path) -> None:
    del made_up
    printed = msgspec.json.decode(msgspec.json.encode(weights.inspect(fixture.write(tmp_path, arch=arch))))
    facts = parse(ModelFacts, printed)
    assert isinstance(facts, ModelFacts), facts
    assert {"digest": printed["digest"], **facts.model_dump(mode="json", by_alias=True, exclude_none=True)} == printed
