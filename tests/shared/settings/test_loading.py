import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import SettingsError
from shared.settings import Settings, load, table, worker_name
from shared.settings.loading import GROUPS
from shared.settings.setting_types import choice, lenient, limit, listed, number, whole

ROOT = Path(__file__).parents[3]
FIELDS = {field.metadata["variable"]: field for field in dataclasses.fields(Settings)}
SECRETS = [variable for variable, field in FIELDS.items() if field.metadata["secret"]]


def refusal(**environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environment)
    return caught.value.message


# Parsers ----------------------------------------------------------------------------------------------


@given(st.integers(-50, 150))
def test_a_whole_number_has_bounds(value: int) -> None:
    kind = whole(3, 100)
    assert kind.allowed == "a whole number from 3 to 100"
    if 3 <= value <= 100:
        assert kind.parse(str(value)) == value
    else:
        with pytest.raises(ValueError, match=str(value)):
            kind.parse(str(value))


@pytest.mark.parametrize("text", ["1.5", "one", "0x10", "1e2", "½", "9" * 5000])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        whole(0, 10**6).parse(text)


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("1e1", 10.0), ("7", 7.0)])
def test_a_number_may_be_decimal(text: str, value: float) -> None:
    assert number(0.5, 10).parse(text) == value


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "0.49", "10.1", "", "1,5"])
@pytest.mark.parametrize("high", [10, math.inf])
def test_a_number_is_finite_and_within_its_bounds(text: str, high: float) -> None:
    if text == "10.1" and high == math.inf:
        assert number(0.5, high).parse(text) == 10.1
        return
    with pytest.raises(ValueError, match=r"."):
        number(0.5, high).parse(text)


def test_a_number_says_its_bounds() -> None:
    assert number(0.1, 60).allowed == "a number from 0.1 to 60"
    assert number(2).allowed == "a number of at least 2"


@pytest.mark.parametrize(
    ("text", "value"),
    [("true YES on 1", True), ("false No OFF 0", False)],
)
def test_booleans_are_written_in_many_ways(text: str, value: bool) -> None:
    for word in text.split():
        assert load({"KAFKA_ENABLED": word}).kafka_enabled is value


def test_another_word_is_no_boolean() -> None:
    assert refusal(KAFKA_ENABLED="maybe") == "KAFKA_ENABLED='maybe': must be true or false"


def test_a_choice_is_free_in_its_case() -> None:
    kind = choice("kafka", "redis", "")
    assert [kind.parse(text) for text in ("Kafka", "REDIS", "")] == ["kafka", "redis", ""]
    assert kind.allowed == "one of kafka, redis, (empty)"
    with pytest.raises(ValueError, match="rabbit"):
        kind.parse("rabbit")


def test_lenient_takes_the_default_for_what_is_not_allowed() -> None:
    kind = lenient(whole(1, 10), 4)
    assert [kind.parse(text) for text in ("7", "0", "11", "seven", "-3")] == [7, 4, 4, 4, 4]


@given(st.text(max_size=20))
def test_a_limit_is_positive_whatever_is_written(text: str) -> None:
    assert limit(1024).parse(text) >= 1


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("007", 7), ("0", 9), ("-1", 9), ("2.0", 9), ("+3", 9)]
)
def test_a_limit_is_a_positive_whole_number_or_the_default(text: str, value: int) -> None:
    assert limit(9).parse(text) == value


def test_lists_drop_blanks_and_empty_parts() -> None:
    assert listed(",").parse(" a.example , ,b.example,") == ("a.example", "b.example")
    assert load({"FILE_URL_ALLOWED_DIRS": "/media, /more media"}).file_url_dirs == ("/media", "/more media")


def test_tokens_are_pairs_whose_value_may_hold_an_equals_sign() -> None:
    tokens = load(
        {"ASSET_DOWNLOAD_AUTH_TOKENS": "Media.Example=Bearer a=b== ; other=Basic x;"}
    ).download_tokens
    assert tokens == (("media.example", "Bearer a=b=="), ("other", "Basic x"))


@pytest.mark.parametrize("text", ["media.example", "=Bearer a", "media.example=", "a=b;c"])
def test_tokens_without_a_host_or_a_value_are_refused_unseen(text: str) -> None:
    expected = "ASSET_DOWNLOAD_AUTH_TOKENS=(hidden): must be domain=value, separated by ;"
    assert refusal(ASSET_DOWNLOAD_AUTH_TOKENS=text) == expected


@pytest.mark.parametrize("text", ["1", "0", "false", "x"])
def test_any_text_switches_the_verification_of_uploads_off(text: str) -> None:
    assert load({"VSS_SKIP_INPUT_MEDIA_VERIFICATION": text}).skip_media_verification is True


@pytest.mark.parametrize(("text", "value"), [("-4", 0), ("3", 3), ("99", 10), ("many", 0)])
def test_redirects_are_brought_into_range(text: str, value: int) -> None:
    assert load({"ASSET_DOWNLOAD_MAX_REDIRECTS": text}).download_redirects == value


def test_the_port_of_metrics_may_be_off() -> None:
    assert load({"RTEMBED_METRICS_PORT": "off"}).metrics_port is None
    assert load({"RTEMBED_METRICS_PORT": "9100"}).metrics_port == 9100
    assert "must be a port, 0 or off" in refusal(RTEMBED_METRICS_PORT="65536")


def test_a_path_may_begin_at_the_home_folder() -> None:
    assert load({"ASSET_STORAGE_DIR": "~/assets"}).asset_dir == Path.home() / "assets"


def test_the_home_folder_of_nobody_is_refused() -> None:
    message = refusal(ASSET_STORAGE_DIR="~no-such-user/assets")
    assert message == "ASSET_STORAGE_DIR='~no-such-user/assets': must be a path"


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://:pw@h:6380/3", "unix:///run/redis.sock?db=1", "redis://[::1]:6379/0"]
)
def test_addresses_of_redis(url: str) -> None:
    assert load({"REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    "url", ["http://h", "localhost:6379", "redis://", "redis://h:port", "redis://[::1/0"]
)
def test_what_is_no_address_of_redis_is_refused_unseen(url: str) -> None:
    assert refusal(REDIS_URL=url).startswith("REDIS_URL=(hidden): must be ")


@pytest.mark.parametrize("name", ["a" * 129, "two words", "ü", "a:b"])
def test_a_worker_name_is_plain(name: str) -> None:
    assert "1 to 128 letters" in refusal(RTEMBED_WORKER_NAME=name)


def test_a_worker_without_a_name_is_named_after_its_process() -> None:
    assert worker_name(load({"RTEMBED_WORKER_NAME": "gpu-3"})) == "gpu-3"
    assert worker_name(load({})).endswith(f"-{os.getpid()}")


# Loading ----------------------------------------------------------------------------------------------


def test_nothing_set_gives_the_defaults() -> None:
    assert load({}) == Settings()


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_an_empty_variable_counts_as_unset(empty: str) -> None:
    meaningful = {variable for variable, field in FIELDS.items() if field.metadata["empty"]}
    assert meaningful == {"ERROR_BUS", "MESSAGE_BUS", "CUDA_VISIBLE_DEVICES"}
    assert load(dict.fromkeys(set(FIELDS) - meaningful, empty)) == Settings()


def test_an_empty_error_bus_is_a_value() -> None:
    assert load({}).error_bus is None
    assert load({"ERROR_BUS": ""}).error_bus == ""


def test_an_empty_cuda_visible_devices_hides_all_gpus() -> None:
    assert load({}).cuda_devices == "all"
    assert load({"CUDA_VISIBLE_DEVICES": ""}).cuda_devices == ""


def test_blanks_around_a_value_are_dropped() -> None:
    assert load({"BACKEND_PORT": " 9000 \n"}).port == 9000


def test_every_default_is_one_that_could_be_set() -> None:
    for variable, field in FIELDS.items():
        if field.default not in (None, "", ()) and variable != "VSS_SKIP_INPUT_MEDIA_VERIFICATION":
            assert field.metadata["kind"].parse(str(field.default)) == field.default, variable


def test_all_problems_are_told_at_once_in_order() -> None:
    message = refusal(REDIS_PORT="0", BACKEND_PORT="http", LOG_LEVEL="loud", REDIS_DB="3")
    assert message == (
        "BACKEND_PORT='http': must be a whole number from 0 to 65535; "
        "LOG_LEVEL='loud': must be one of debug, perf, status, info, warning, warn, error; "
        "REDIS_PORT='0': must be a whole number from 1 to 65535"
    )


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load({}).port = 1  # type: ignore[misc]


def test_overrides_win() -> None:
    assert load({"BACKEND_PORT": "9000"}, port=0).port == 0


def test_every_variable_belongs_to_one_field() -> None:
    fields = [field.name for group in GROUPS for field in dataclasses.fields(group)]
    assert len(FIELDS) == len(dataclasses.fields(Settings)) == len(fields)
    assert all(field.metadata["meaning"] and field.metadata["kind"].allowed for field in FIELDS.values())


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"REDIS_CLUSTER": "true", "REDIS_SENTINELS": "a:1"}, "exclude each other"),
        ({"REDIS_CLUSTER": "true", "REDIS_DB": "3"}, "REDIS_DB=3: a cluster has database 0 only"),
        ({"REDIS_URL": "unix:///s", "REDIS_SENTINELS": "a:1"}, "a socket"),
        ({"REDIS_SENTINELS": "a:1,b:x"}, "REDIS_SENTINELS='a:1,b:x': must be host:port"),
        ({"REDIS_SENTINELS": "http://a"}, "REDIS_SENTINELS='http://a': must be host:port"),
    ],
)
def test_settings_that_exclude_each_other_are_named(variables: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        load(variables)


def test_sentinels_may_have_their_usual_port() -> None:
    assert load({"REDIS_SENTINELS": "a, b:7 ,[::1]:9"}).redis_sentinels == ("a", "b:7", "[::1]:9")


# Secrets ----------------------------------------------------------------------------------------------


def test_what_grants_access_is_secret() -> None:
    suspects = [
        name
        for name in FIELDS
        if any(w in name for w in ("PASSWORD", "SECRET", "TOKEN", "API_KEY", "ADMIN_KEY", "SECRET_KEY"))
    ]
    assert set(suspects) | {"REDIS_URL", "RTEMBED_SEARCH_URL"} == set(SECRETS)


def test_secrets_are_in_no_representation() -> None:
    environment = dict.fromkeys(SECRETS, "s3cr3t-value")
    environment |= {"REDIS_URL": "redis://:s3cr3t-value@h", "ASSET_DOWNLOAD_AUTH_TOKENS": "h=s3cr3t-value"}
    environment["RTEMBED_SEARCH_URL"] = "postgresql://me:s3cr3t-value@h/db"
    settings = load(environment)
    assert settings.redis_password == "s3cr3t-value"
    assert "s3cr3t" not in repr(settings)
    assert "s3cr3t" not in str(settings)


def test_a_bad_secret_is_not_repeated_at_start() -> None:
    environment = {**os.environ, "REDIS_URL": "http://:s3cr3t@h", "BACKEND_PORT": "x"}
    for module in ("gateway", "worker"):
        ended = subprocess.run(
            [sys.executable, "-m", module],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"rt-embed {module}: BACKEND_PORT='x': must be")
        assert "REDIS_URL=(hidden)" in ended.stderr
        assert "s3cr3t" not in ended.stdout + ended.stderr


# The table --------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_every_variable() -> None:
    lines = table().splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert {row.split("|")[1].strip(" `") for row in rows} == FIELDS.keys()
    assert len(rows) == len(FIELDS)
    assert all(line.replace("\\|", "").count("|") == 5 for line in lines if line.startswith("|"))
    assert [line[3:] for line in lines if line.startswith("## ")] == [group.__doc__ for group in GROUPS]


def test_the_table_names_no_home_folder() -> None:
    assert str(Path.home()) not in table()


def test_the_documented_table_is_up_to_date() -> None:
    generated = subprocess.run(
        [sys.executable, "-m", "shared.settings"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (ROOT / "deploy" / "settings.md").read_text() == generated.stdout
