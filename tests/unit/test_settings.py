"""The setting REPLICATOR: all mistakes at once, and no secret in any text."""

import re
import traceback

import pytest
from django.test import override_settings

from replicator.errors import ConfigurationError
from replicator.log.port import open_log
from replicator.settings import (
    Address,
    ReplicatorSettings,
    load_settings,
    requests_topic,
    stream_topic,
)

MINIMAL = {"ENVIRONMENT": "stage", "LOG": "kafka://kafka-1:9092,kafka-2:9092"}
SECRET = "hunter2"


def load(**more: object) -> ReplicatorSettings:
    with override_settings(REPLICATOR=MINIMAL | more):
        return load_settings()


def refusal(**more: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(**more)
    assert caught.value.remedy
    return str(caught.value)


def test_the_minimum_gets_the_defaults():
    settings = load()
    assert settings.environment == "stage"
    assert settings.database == "default"
    assert list(settings.streams) == ["main"]
    assert settings.auto_prepare is True
    assert settings.metrics.capture is None
    assert settings.logging.format == "text"
    assert settings.subscriptions == ()


@override_settings(REPLICATOR=None)
def test_missing():
    with pytest.raises(ConfigurationError, match=r"settings\.REPLICATOR is missing"):
        load_settings()


def test_the_same_value_is_parsed_once_and_another_anew():
    with override_settings(REPLICATOR=dict(MINIMAL)):
        first = load_settings()
        assert load_settings() is first
        with override_settings(REPLICATOR=MINIMAL | {"ENVIRONMENT": "dev"}):
            assert load_settings().environment == "dev"
        assert load_settings() is first


def test_every_mistake_is_named_at_once():
    text = refusal(
        ENVIRONMENT="pro.d",
        LOG="amqp://x",
        STREAM={},
        STREAMS={"Main": {}, "big": {"slots": 2}},
        SUBSCRIPTIONS=[{"source": "prod", "datset": "x", "on_clash": "ignore", "fuse": -1}],
        METRICS="9464",
        LOGGING={"format": "xml"},
        AUTO_PREPARE="perhaps",
    )
    for place in (
        "ENVIRONMENT",
        "LOG",
        "STREAM: unknown key",
        "STREAMS.Main",
        "STREAMS.big.slots: unknown key",
        "SUBSCRIPTIONS.0.dataset: missing",
        "SUBSCRIPTIONS.0.datset: unknown key",
        "SUBSCRIPTIONS.0.on_clash",
        "SUBSCRIPTIONS.0.fuse",
        "METRICS.capture",
        "LOGGING.format",
        "AUTO_PREPARE",
    ):
        assert place in text


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///log.sqlite3", "LOG: must have an absolute path, with four slashes"),
        ("sqlite:///", "absolute path"),
        ("sqlite:////", "absolute path"),
        ("kafka://localhost", "LOG: must name each broker with its port"),
        ("kafka://a:9092,b", "port"),
        ("kafka://a:9092, b:9092", "port"),
        ("kafka://", "port"),
        ("foo://x:1", "LOG: must "),
        ("x", "LOG: must "),
    ],
)
def test_a_url_that_names_no_log(url: str, problem: str):
    assert problem in refusal(LOG=url)
    with pytest.raises(ConfigurationError, match=re.escape(problem.removeprefix("LOG: "))):
        open_log(url)


@pytest.mark.parametrize(
    "url", ["sqlite:////var/log.sqlite3", "kafka://a:1,b:2", "kafka://[::1]:9092"]
)
def test_a_url_that_names_a_log(url: str):
    assert load(LOG=url).log == url


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"TARGETS": {"dev": "polls"}}, "TARGETS.dev: must be a list."),
        ({"TARGETS": {"stage": ["*"]}}, "TARGETS: an environment cannot be a target of itself."),
        ({"SUBSCRIPTIONS": {"source": "prod"}}, "SUBSCRIPTIONS: must be a list."),
        ({"AUTO_PREPARE": "perhaps"}, "AUTO_PREPARE: must be True or False."),
        ({"LOGGING": {"format": "xml"}}, "LOGGING.format: must be 'text' or 'json'."),
        ({"DIRECT": 5432}, "DIRECT: must be a dict."),
    ],
)
def test_a_wrong_value_is_answered_with_a_right_one(wrong: dict[str, object], problem: str):
    with pytest.raises(ConfigurationError) as caught:
        load(**wrong)
    assert str(caught.value) == f"settings.REPLICATOR is wrong: {problem}"
    assert caught.value.remedy.startswith(f'Write it like this: "{next(iter(wrong))}": ')
    assert "The keys are" not in caught.value.remedy


def test_the_example_of_each_key_is_right():
    fields = ReplicatorSettings.model_fields.values()
    examples = {field.alias: field.examples[0] for field in fields if field.examples}
    assert len(examples) == len(fields)
    assert ReplicatorSettings.model_validate(examples | {"ENVIRONMENT": "here"})


def test_an_unknown_key_is_answered_with_all_of_them():
    with pytest.raises(ConfigurationError, match="COLOUR: unknown key") as caught:
        load(COLOUR="red")
    assert caught.value.remedy.startswith("The keys are ENVIRONMENT, LOG, LOG_OPTIONS, ")


SECRETS = {
    "LOG_OPTIONS": {"sasl_plain_password": SECRET},
    "DIRECT": {"password": SECRET},
    "SUBSCRIPTIONS": [
        {
            "source": "prod",
            "dataset": "polls",
            "LOG": "kafka://other:9092",
            "LOG_OPTIONS": {"sasl_plain_password": SECRET},
        }
    ],
}


def test_secrets_are_read_and_never_shown():
    settings = load(**SECRETS)
    assert settings.direct == {"password": SECRET}
    assert settings.log_options == {"sasl_plain_password": SECRET}
    for text in (repr(settings), str(settings)):
        assert SECRET not in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"LOG": f"amqp://user:{SECRET}@x"},
        {"LOG": f"kafka://user:{SECRET}@kafka:9092"},
        {"LOG_OPTIONS": SECRET},
        {"DIRECT": SECRET},
        {"DIRECT": {1: SECRET}},
        {"SUBSCRIPTIONS": [{"source": "prod", "dataset": "x", "LOG": SECRET}]},
        SECRET,
    ],
)
def test_no_error_shows_a_secret(wrong):
    raw = MINIMAL | SECRETS | wrong if isinstance(wrong, dict) else wrong
    with override_settings(REPLICATOR=raw), pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("given", "capture", "apply"),
    [
        (
            "127.0.0.1:9464",
            Address(host="127.0.0.1", port=9464),
            Address(host="127.0.0.1", port=9464),
        ),
        (":0", Address(host="", port=0), Address(host="", port=0)),
        ({"apply": "[::1]:9465"}, None, Address(host="::1", port=9465)),
    ],
)
def test_metrics_addresses(given, capture, apply):
    metrics = load(METRICS=given).metrics
    assert (metrics.capture, metrics.apply) == (capture, apply)


def test_subscriptions_have_names_and_arguments():
    (plain, argued) = load(
        SUBSCRIPTIONS=[
            {"source": "prod", "dataset": "polls"},
            {"source": "prod", "dataset": "polls:3,4", "on_clash": "adopt", "fuse": 10},
        ]
    ).subscriptions
    assert (plain.name, plain.arguments, plain.stream, plain.on_clash) == (
        "polls",
        "",
        "main",
        "refuse",
    )
    assert (argued.name, argued.arguments, argued.fuse) == ("polls", "3,4", 10)


def test_the_same_subscription_twice_and_oneself_are_refused():
    wish = {"source": "prod", "dataset": "polls"}
    assert "twice" in refusal(SUBSCRIPTIONS=[wish, wish])
    assert "itself" in refusal(SUBSCRIPTIONS=[wish | {"source": "stage"}])
    text = refusal(SUBSCRIPTIONS=[wish, wish, wish | {"source": "stage"}], AUTO_PREPARE="perhaps")
    for problem in ("twice", "itself", "AUTO_PREPARE"):
        assert problem in text


def test_a_subscription_to_another_log_does_not_get_this_ones_password():
    settings = load(
        LOG_OPTIONS={"sasl_plain_password": SECRET},
        SUBSCRIPTIONS=[
            {"source": "a", "dataset": "x"},
            {"source": "b", "dataset": "x", "LOG": "kafka://elsewhere:9092"},
            {"source": "c", "dataset": "x", "LOG_OPTIONS": {"client_id": "c"}},
        ],
    )
    own, other, options = settings.subscriptions
    assert settings.log_of(own) == (MINIMAL["LOG"], {"sasl_plain_password": SECRET})
    assert settings.log_of(other) == ("kafka://elsewhere:9092", {})
    assert settings.log_of(options) == (MINIMAL["LOG"], {"client_id": "c"})


def test_targets_are_allowed_what_is_listed():
    settings = load(TARGETS={"test": ["polls"], "dev": ["*"]})
    assert settings.allows("test", "polls")
    assert not settings.allows("test", "users")
    assert settings.allows("dev", "users")
    assert not settings.allows("laptop", "polls")


@pytest.mark.parametrize("name", ["main", "a", "big_2", "x" * 40])
def test_good_stream_names(name):
    assert name in load(STREAMS={name: {}}).streams


@pytest.mark.parametrize("name", ["", "Main", "a__b", "_a", "a_", "a-b", "a.b", "x" * 41, "a\n"])
def test_stream_names_that_would_break_the_slots_name(name):
    assert "STREAMS" in refusal(STREAMS={name: {}})


def test_topics():
    assert stream_topic("prod", "main") == "replicator.prod.main"
    assert requests_topic("prod", "main", "stage") == "replicator.prod.main.requests.stage"


@pytest.mark.parametrize(
    "url",
    [
        "kafka://localhost:9092",
        "kafka://kafka-1.example.org:9092,10.0.0.7:9093",
        "kafka://[::1]:9092",
        "sqlite:////var/log@home.sqlite3",
    ],
)
def test_good_logs(url):
    assert load(LOG=url).log == url


@pytest.mark.parametrize(
    "url",
    [
        *("kafka://", "kafka://localhost", "kafka://localhost:", "kafka://:9092", "kafka:///x"),
        *("kafka://a:9092,b", "kafka://a:9092,", "kafka://a:0", "kafka://a:65536", "kafka://a:1/x"),
        *("kafka://a:9092, b:9092", "kafka://::1:9092", "sqlite:///", "sqlite://x"),
    ],
)
def test_logs_that_nobody_could_open(url):
    assert "LOG: must " in refusal(LOG=url)
    text = refusal(SUBSCRIPTIONS=[{"source": "prod", "dataset": "x", "LOG": url}])
    assert "SUBSCRIPTIONS.0.LOG: must " in text


def test_a_password_in_the_log_is_refused_and_has_its_place():
    text = refusal(LOG=f"kafka://me:{SECRET}@kafka:9092")
    assert SECRET not in text
    assert "sasl_plain_username and sasl_plain_password in LOG_OPTIONS" in text


def test_an_unknown_database_is_named_with_those_there_are():
    settings = ReplicatorSettings.model_validate(
        {"ENVIRONMENT": "prod", "LOG": "kafka://k:9092", "DATABASE": "replica"}
    )
    with pytest.raises(ConfigurationError, match="'replica'") as raised:
        settings.entry_of({"default": {"NAME": "app"}})
    assert raised.value.remedy == "Name one of: default."
    assert settings.entry_of({"replica": {"NAME": "app"}}) == {"NAME": "app"}
