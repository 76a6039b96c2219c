"""Settings come from the environment once, are refused with the variable's name, and teach in --help."""

import pytest

from wenxin_operator.errors import ConfigurationError
from wenxin_operator.settings import Settings, describe, variable


def test_every_setting_has_a_default_and_a_description() -> None:
    settings = Settings.from_environment({})
    assert settings.workers == 4
    assert settings.watch_namespaces == ()
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_settings_are_read_from_variables_of_their_name() -> None:
    settings = Settings.from_environment(
        {
            "WENXIN_OPERATOR_WATCH_NAMESPACES": "a, b,",
            "WENXIN_OPERATOR_RESYNC_INTERVAL": "1m30s",
            "WENXIN_OPERATOR_WORKERS": "7",
            "WENXIN_OPERATOR_LOG_FORMAT": "text",
            "WENXIN_OPERATOR_RUNTIME_IMAGE": "",
            "PATH": "/bin",
        }
    )
    assert settings.watch_namespaces == ("a", "b")
    assert settings.resync_interval == 90
    assert settings.workers == 7
    assert settings.log_format == "text"
    assert settings.runtime_image == "localhost/wenxin/runtime:dev", "an empty variable counts as unset"


def test_an_unknown_variable_of_ours_is_refused_as_the_typing_error_that_it_is() -> None:
    with pytest.raises(ConfigurationError, match="WENXIN_OPERATOR_WORKRES"):
        Settings.from_environment({"WENXIN_OPERATOR_WORKRES": "7"})


def test_variables_that_kubernetes_makes_of_a_service_named_like_us_do_no_harm() -> None:
    links = {
        "WENXIN_OPERATOR_SERVICE_HOST": "10.96.0.7",
        "WENXIN_OPERATOR_SERVICE_PORT": "8080",
        "WENXIN_OPERATOR_SERVICE_PORT_METRICS": "8080",
        "WENXIN_OPERATOR_METRICS_SERVICE_HOST": "10.96.0.8",
        "WENXIN_OPERATOR_METRICS_PORT": "tcp://10.96.0.8:8080",
        "WENXIN_OPERATOR_PORT": "tcp://10.96.0.7:8080",
        "WENXIN_OPERATOR_PORT_8080_TCP_ADDR": "10.96.0.7",
    }
    assert Settings.from_environment(links) == Settings.from_environment({})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WORKERS", "0", "greater than or equal to 1"),
        ("WORKERS", "many", "valid integer"),
        ("RESYNC_INTERVAL", "soon", "write a duration such as"),
        ("RESYNC_INTERVAL", "-5s", "write a duration such as"),
        ("LOG_LEVEL", "loud", "'debug', 'info'"),
        ("HTTP_PORT", "70000", "less than or equal to 65535"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variables_name(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        Settings.from_environment({f"WENXIN_OPERATOR_{name}": value})
    assert f"WENXIN_OPERATOR_{name}" in str(raised.value)
    assert raised.value.exit_code == 2


def test_timings_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="lease_duration must exceed lease_renew_deadline"):
        Settings.from_environment({"WENXIN_OPERATOR_LEASE_DURATION": "5s"})
    with pytest.raises(ConfigurationError, match="at least twice resync_interval"):
        Settings.from_environment({"WENXIN_OPERATOR_WATCH_AGE": "2m"})


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400)])
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    settings = Settings.from_environment({"WENXIN_OPERATOR_BACKOFF_MAX": text})
    assert settings.backoff_max == seconds
    assert Settings(backoff_max=seconds) == settings


@pytest.mark.parametrize("text", ["5", "5 m", "1d", "m", "5m5", "0s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="WENXIN_OPERATOR_BACKOFF_MAX"):
        Settings.from_environment({"WENXIN_OPERATOR_BACKOFF_MAX": text})


def test_help_lists_every_variable_with_its_default() -> None:
    text = describe()
    for name in Settings.model_fields:
        assert variable(name) in text
    assert "WENXIN_OPERATOR_RESYNC_INTERVAL  [120s]" in text
    assert "WENXIN_OPERATOR_KUBECONFIG\n" in text
