"""`settings.REPLICATOR`, read once and in whole: every mistake is named at the same time.

Secrets (the log's URL and options, the direct connection) never appear in a repr, a message or
a traceback of this module's errors.
"""

import re
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.db.utils import load_backend
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from replicator.errors import ConfigurationError
from replicator.log.url import mistake_in
from replicator.plan import full_name, split_name

ANY_DATASET = "*"
"""In TARGETS: every dataset may be asked for."""


def _name(pattern: str, says: str) -> BeforeValidator:
    def validate(value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(pattern, value):
            raise ValueError(f"must be {says}")
        return value

    return BeforeValidator(validate)


# A dot would be ambiguous in the names of topics.
EnvironmentName: TypeAlias = Annotated[
    str, _name(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", "letters, digits, '-' and '_', at most 63")
]
# The stream is part of the slot's name: replicator_<stream>__<8 hex>, 63 bytes in all
# (https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS).
StreamName: TypeAlias = Annotated[
    str,
    _name(
        r"(?!.*__)[a-z0-9]([a-z0-9_]{0,38}[a-z0-9])?",
        "lower-case letters, digits and single '_', at most 40",
    ),
]


def _log_url(value: object) -> object:
    if isinstance(value, str) and (mistake := mistake_in(value)) is not None:
        raise ValueError(mistake)
    return value


LogUrl: TypeAlias = Annotated[str, BeforeValidator(_log_url)]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=False, hide_input_in_errors=True
    )


class Address(_Part):
    """Where to listen."""

    host: str
    port: int = Field(ge=0, le=65535)


def _address(value: object) -> object:
    if not isinstance(value, str):
        return value
    host, separator, port = value.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit():
        raise ValueError("must be host:port, such as 127.0.0.1:9464")
    return Address(host=host.strip("[]"), port=int(port))


ListenAddress: TypeAlias = Annotated[Address, BeforeValidator(_address)]


class Stream(_Part):
    """One stream that capture publishes; it has no options of its own yet."""


class Metrics(_Part):
    """Where each daemon serves /metrics, /healthz and /readyz; None: nowhere."""

    capture: ListenAddress | None = None
    apply: ListenAddress | None = None


class Health(_Part):
    """When /healthz calls a daemon dead.

    Attributes:
        stalled_after: seconds without a turn of the main loop. A large batch counts as turning
            between its steps; make it longer than the longest statement of one takes.
    """

    stalled_after: float = Field(default=60.0, gt=0)


class Logging(_Part):
    """How the daemons write their logs to standard error."""

    format: Literal["text", "json"] = "text"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Subscription(_Part):
    """One dataset of one source that this environment wants.

    Attributes:
        source: the environment that publishes it.
        dataset: the dataset's name, with its arguments after a colon.
        stream: the stream that carries it.
        log: where the source publishes, if not this environment's own LOG.
        log_options: client options for that log.
        on_clash: what becomes of an existing local row under a replicated row's key.
        fuse: rows that a backfill's sweep may delete before a person is asked; None: the default.
    """

    source: EnvironmentName
    dataset: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(:.*)?$")
    stream: StreamName = "main"
    log: LogUrl | None = Field(default=None, alias="LOG", repr=False)
    log_options: dict[str, Any] | None = Field(default=None, alias="LOG_OPTIONS", repr=False)
    on_clash: Literal["refuse", "adopt"] = "refuse"
    fuse: int | None = Field(default=None, ge=0)

    @property
    def name(self) -> str:
        """The dataset without its arguments."""
        return split_name(self.dataset)[0]

    @property
    def arguments(self) -> str:
        """What follows the colon; empty if nothing does."""
        return split_name(self.dataset)[1]


class ReplicatorSettings(_Part):
    """All of `settings.REPLICATOR`; the attributes are its keys in lower case.

    Attributes:
        environment: name of this deployment.
        log: URL of the log; it holds no password.
        log_options: options of the Kafka client, by kafka-python's names; passwords stand here.
        database: alias in DATABASES of the database that is captured or written.
        direct: what replaces the entry of DATABASES on the way around a pooler: its keys, or
            libpq's keywords.
        streams: what capture publishes, by name.
        targets: environments whose requests capture answers, with the datasets each may ask for.
        subscriptions: what apply brings here.
        auto_prepare: whether daemons create what they need, where their role may.
        metrics: where the daemons listen; one address, or one for each.
        health: when a daemon counts as dead.
        logging: format and level.
    """

    environment: EnvironmentName = Field(alias="ENVIRONMENT", examples=["prod"])
    log: LogUrl = Field(alias="LOG", repr=False, examples=["kafka://kafka-1:9092,kafka-2:9092"])
    log_options: dict[str, Any] = Field(
        default_factory=dict,
        alias="LOG_OPTIONS",
        repr=False,
        examples=[{"security_protocol": "SSL", "ssl_cafile": "/etc/kafka/ca.pem"}],
    )
    database: str = Field(default="default", alias="DATABASE", examples=["default"])
    direct: dict[str, Any] = Field(
        default_factory=dict, alias="DIRECT", repr=False, examples=[{"port": 5432}]
    )
    streams: dict[StreamName, Stream] = Field(
        default_factory=lambda: {"main": Stream()}, alias="STREAMS", examples=[{"main": {}}]
    )
    targets: dict[EnvironmentName, tuple[str, ...]] = Field(
        default_factory=dict, alias="TARGETS", examples=[{"stage": ["published-polls"]}]
    )
    subscriptions: tuple[Subscription, ...] = Field(
        default=(),
        alias="SUBSCRIPTIONS",
        examples=[[{"source": "prod", "dataset": "published-polls", "on_clash": "refuse"}]],
    )
    auto_prepare: bool = Field(default=True, alias="AUTO_PREPARE", examples=[True])
    metrics: Metrics = Field(
        default_factory=Metrics,
        alias="METRICS",
        examples=[{"capture": "127.0.0.1:9464", "apply": "127.0.0.1:9465"}],
    )
    health: Health = Field(
        default_factory=Health, alias="HEALTH", examples=[{"stalled_after": 60.0}]
    )
    logging: Logging = Field(
        default_factory=Logging, alias="LOGGING", examples=[{"format": "text", "level": "INFO"}]
    )

    @field_validator("metrics", mode="before")
    @classmethod
    def _one_address_for_both(cls, value: object) -> object:
        return {"capture": value, "apply": value} if isinstance(value, str) else value

    @field_validator("targets")
    @classmethod
    def _targets_are_others(
        cls, value: dict[str, tuple[str, ...]], info: ValidationInfo
    ) -> dict[str, tuple[str, ...]]:
        if info.data.get("environment") in value:
            raise ValueError("an environment cannot be a target of itself")
        return value

    @field_validator("subscriptions")
    @classmethod
    def _subscriptions_are_sane(
        cls, value: tuple[Subscription, ...], info: ValidationInfo
    ) -> tuple[Subscription, ...]:
        # Of the field, because a validator of the model runs only if no field is wrong.
        problems = []
        if any(each.source == info.data.get("environment") for each in value):
            problems.append("an environment cannot subscribe to itself")
        times = Counter((s.source, s.stream, s.name, s.arguments) for s in value)
        problems += [
            f"{full_name(name, arguments)} stands there twice"
            for (_, _, name, arguments), count in times.items()
            if count > 1
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return value

    def log_of(self, subscription: Subscription) -> tuple[str, Mapping[str, Any]]:
        """Give URL and client options of the log that carries a subscription.

        The options of this environment's LOG are sent to another log only if it is the same one:
        they may hold a password.
        """
        if subscription.log is None or subscription.log == self.log:
            options = subscription.log_options
            return self.log, self.log_options if options is None else options
        return subscription.log, subscription.log_options or {}

    def log_of_stream(self, source: str, stream: str) -> tuple[str, Mapping[str, Any]]:
        """Give URL and client options of the log that carries a stream of a source.

        It is that of a declared subscription to the stream, or else to the source, or else this
        environment's LOG.
        """
        near = [each for each in self.subscriptions if each.source == source]
        same = [each for each in near if each.stream == stream]
        found = next(iter([*same, *near]), None)
        return (self.log, self.log_options) if found is None else self.log_of(found)

    def entry_of(self, databases: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        """Give the entry of `settings.DATABASES` that is captured or written.

        Raises:
            ConfigurationError: there is none of that alias, or it is not Postgres.
        """
        if self.database not in databases:
            raise ConfigurationError(
                f"REPLICATOR['DATABASE'] is {self.database!r}, which is not in DATABASES.",
                remedy=f"Name one of: {', '.join(sorted(databases))}.",
            )
        entry = databases[self.database]
        engine = entry.get("ENGINE")
        if engine and not _is_postgres(engine):
            raise ConfigurationError(
                f"The database {self.database!r} is not Postgres: its ENGINE is {engine}.",
                remedy="Use settings whose database is Postgres 15 or newer, or name another alias "
                "in REPLICATOR['DATABASE'].",
            )
        return entry

    @property
    def publishes(self) -> bool:
        """Whether it is a source: it names targets, or its streams."""
        return bool(self.targets) or "streams" in self.model_fields_set

    def allows(self, target: str, dataset: str) -> bool:
        """Say whether a target may ask for a dataset (by its name, without arguments)."""
        allowed = self.targets.get(target, ())
        return dataset in allowed or ANY_DATASET in allowed


def load_settings() -> ReplicatorSettings:
    """Read `settings.REPLICATOR`; the same value is parsed once.

    Raises:
        ConfigurationError: it is missing or wrong; all mistakes are in the message.
    """
    raw = getattr(django_settings, "REPLICATOR", None)
    if not isinstance(raw, Mapping):
        raise ConfigurationError(
            "settings.REPLICATOR is missing or not a dict",
            remedy='Set REPLICATOR = {"ENVIRONMENT": "…", "LOG": "kafka://…"} in the settings.',
        )
    return _parsed(_Identity(raw))


def stream_topic(environment: str, stream: str) -> str:
    """Name the topic of a stream's events."""
    return f"replicator.{environment}.{stream}"


def requests_topic(environment: str, stream: str, target: str) -> str:
    """Name the topic of one target's requests to a stream's capture."""
    return f"{stream_topic(environment, stream)}.requests.{target}"


def _is_postgres(engine: str) -> bool:
    """Ask the backend itself: many that are not Django's own stand for Postgres."""
    try:
        return bool(load_backend(engine).DatabaseWrapper.vendor == "postgresql")
    except ImproperlyConfigured:
        return False


class _Identity:
    """Makes a dict a cache key by its identity, and keeps it alive as long as the cache does."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.raw is self.raw

    def __hash__(self) -> int:
        return id(self.raw)


@lru_cache(maxsize=8)
def _parsed(source: _Identity) -> ReplicatorSettings:
    try:
        return ReplicatorSettings.model_validate(dict(source.raw))
    except ValidationError as error:
        mistakes = [_Mistake(item["loc"], item["type"], item["msg"]) for item in error.errors()]
    # Outside of the except: the validation error holds the input, and with it the secrets.
    raise ConfigurationError(
        "settings.REPLICATOR is wrong: " + "; ".join(each.text for each in mistakes) + ".",
        remedy=_remedy(mistakes),
    )


class _Mistake(NamedTuple):
    """One wrong value: where it stands, pydantic's type of error, and its words."""

    location: tuple[int | str, ...]
    kind: str
    message: str

    @property
    def is_of_a_key(self) -> bool:
        """Whether a top-level key is unknown or missing."""
        return len(self.location) == 1 and self.kind in {"extra_forbidden", "missing"}

    @property
    def text(self) -> str:
        """Say it in the words of the settings; the value itself is never shown."""
        text = _WORDS.get(self.kind) or self.message.removeprefix("Value error, ")
        text = text.replace("Input should be", "must be")
        place = ".".join(map(str, self.location))
        return f"{place}: {text}" if place else text


# https://docs.pydantic.dev/latest/errors/validation_errors/
_WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "missing",
    "tuple_type": "must be a list",
    "dict_type": "must be a dict",
    "model_type": "must be a dict",
    "string_type": "must be a text",
    "bool_type": "must be True or False",
    "bool_parsing": "must be True or False",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_pattern_mismatch": "must be letters, digits, '-' and '_', with arguments after a colon",
}


def _remedy(mistakes: list[_Mistake]) -> str:
    """Show how each wrong key looks when it is right; all keys if one is unknown or missing."""
    fields = {field.alias: field for field in ReplicatorSettings.model_fields.values()}
    wrong = {str(each.location[0]) for each in mistakes if each.location and not each.is_of_a_key}
    right = ", ".join(
        f"{alias!r}: {field.examples[0]!r}".replace("'", '"')
        for alias, field in fields.items()
        if alias in wrong and field.examples
    )
    parts = [f"Write it like this: {right}."] if right else []
    if any(each.is_of_a_key for each in mistakes):
        keys = ", ".join(filter(None, fields))
        parts.append(f"The keys are {keys}; only ENVIRONMENT and LOG are required.")
    return " ".join(parts) or "See docs/configuration.md for what each key may be."
