from e2e.harness import layers, paths


def test_the_layer_of_the_same_sources_is_the_same_to_the_byte() -> None:
    source = paths.REPOSITORY / "operator" / "wenxin_operator"
    first, again = (layers.project(source, "wenxin-operator") for _ in range(2))
    assert first.digest == again.digest
