"""The tables that histories write to: keys, columns, values to choose from. Pure.

Values are SQL expressions. Keys come from small pools, so that the same row is written again and
again; the source never uses the keys and values of local rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from psycopg import sql

Draw = Callable[[Random], str]
"""Draws a value, as an SQL expression."""

KEYS = 12
LOCAL = 900_000
"""Integer keys of local rows begin here."""
LOCAL_UUID = "ffffffff"
"""How UUIDs of local rows begin."""

TEXTS = (
    "",
    "a",
    "ab",
    "!b",
    "Zz",
    "it's",
    'a "quoted" one',
    "back\\slash \\N \\. \\x41",
    "tab\tnewline\nreturn\r",
    "\x01\x02",
    "äöü ß 😀",
    "null",
    "{1,2}",
)


def quoted(value: object) -> str:
    """Write a constant."""
    return sql.Literal(value).as_string(None)


def pick(table: str, column: str, chance: Random, below: str = "") -> str:
    """Give an expression for the key of some row that is there; the choice hangs on the rows."""
    salt = quoted(chance.randrange(10**6))
    where = f" WHERE {below}" if below else ""
    return (
        f"(SELECT p.{column} FROM {table} p{where} "
        f"ORDER BY md5(p.{column}::text || {salt}::text) LIMIT 1)"
    )


def choose(*values: object) -> Draw:
    """Draw one of some constants."""
    return lambda chance: quoted(chance.choice(values))


def expression(*texts: str) -> Draw:
    """Draw one of some expressions."""
    return lambda chance: chance.choice(texts)


def number(low: int, high: int) -> Draw:
    """Draw an integer."""
    return lambda chance: str(chance.randint(low, high))


def text(chance: Random) -> str:
    """Draw a short text, some of them hostile."""
    return quoted(chance.choice(TEXTS))


def big(chance: Random) -> str:
    """Draw a text that may be stored out of line."""
    if chance.random() < 0.4:
        return text(chance)
    size, salt = chance.choice([80, 300, 900]), chance.randrange(10**6)
    return f"(SELECT string_agg(md5((i + {salt})::text), '') FROM generate_series(1, {size}) i)"


def or_null(draw: Draw, share: float = 0.3) -> Draw:
    """Draw NULL now and then."""
    return lambda chance: "NULL" if chance.random() < share else draw(chance)


def unique_name(chance: Random) -> str:
    """Draw a name from few, for unique columns."""
    return quoted(f"{chance.choice('ab!Z')}{chance.randrange(9)}")


@dataclass(frozen=True)
class Link:
    """A foreign key: `column` points at the key of `to`."""

    column: str
    to: str
    to_column: str = "id"
    nullable: bool = False


@dataclass(frozen=True)
class TableSpec:
    """A table that histories write to.

    Attributes:
        label: its model.
        name: of the table, in schema public.
        key: its key columns and how they are drawn; columns of `links` are drawn from rows.
        columns: other columns, links aside.
        links: foreign keys.
        unique: a unique column whose values change hands, with its type.
        big: columns that may be TOASTed.
        filters: conditions that rules on it may have, as Python text.
    """

    label: str
    name: str
    key: dict[str, Draw]
    columns: dict[str, Draw]
    links: tuple[Link, ...] = ()
    unique: tuple[str, str] | None = None
    filters: tuple[str, ...] = ()
    fixed: dict[str, str] = field(default_factory=dict)

    def link(self, column: str) -> Link | None:
        """Give the foreign key on a column."""
        return next((each for each in self.links if each.column == column), None)

    def key_where(self, chance: Random, alias: str = "") -> str:
        """Draw a condition that names one row, there or not."""
        prefix = f"{alias}." if alias else ""
        parts = [f"{prefix}{name} = {draw(chance)}" for name, draw in self.key.items()]
        return " AND ".join(parts)


def ids(chance: Random) -> str:
    """Draw an integer key."""
    return str(chance.randint(1, KEYS))


def uuids(chance: Random) -> str:
    """Draw a UUID."""
    return quoted(f"00000000-0000-4000-8000-{chance.randint(1, KEYS):012d}")


def _odd_key(chance: Random) -> str:
    """Draw a text that is no key as Django writes it."""
    odd = ("", "07", "-0", "1.0", " 1", "99999999999999999999", "a", uuids(chance)[1:-1].upper())
    return quoted(chance.choice(odd))


def _text_key(chance: Random) -> str:
    return uuids(chance) if chance.random() < 0.8 else _odd_key(chance)


def picked(table: str, column: str = "id") -> Draw:
    """Draw the key of a row that is there."""
    return lambda chance: pick(table, column, chance)


ID: dict[str, Draw] = {"id": ids}
UUID: dict[str, Draw] = {"id": uuids}
MOMENT = expression("now()", "'2026-01-01 00:00:00+00'", "'1999-12-31 23:59:59.999999+00'")


def _kind(*names: str) -> Draw:
    """Draw the key of one of some content types."""
    return lambda chance: (
        "(SELECT p.id FROM django_content_type p "
        f"WHERE p.app_label || '.' || p.model = {quoted(chance.choice(names))})"
    )


_USER_FIXED = {
    "password": "''",
    "is_superuser": "false",
    "first_name": "'source'",
    "last_name": "''",
    "is_staff": "false",
    "is_active": "true",
    "date_joined": "now()",
}

SPECS: tuple[TableSpec, ...] = (
    TableSpec(
        "auth.User",
        "auth_user",
        ID,
        {"username": unique_name, "email": text},
        unique=("username", "text"),
        fixed=_USER_FIXED,
    ),
    TableSpec(
        "polls.Question",
        "polls_question",
        ID,
        {
            "question_text": text,
            "body": big,
            "published": choose(True, False),
            "priority": or_null(number(0, 9)),
            "pub_date": MOMENT,
        },
        (Link("author_id", "auth_user", nullable=True),),
        filters=(
            "Q(published=True)",
            "Q(priority__gte=5)",
            "Q(priority=None)",
            "Q(question_text__startswith='a')",
            "~Q(priority=0)",
            "Q(author=None)",
        ),
    ),
    TableSpec(
        "polls.Choice",
        "polls_choice",
        ID,
        {"choice_text": text, "rank": number(1, 4), "votes": number(0, 9)},
        (Link("question_id", "polls_question"),),
        unique=("rank", "integer"),
        filters=("Q(rank__lt=3)", "Q(votes__gt=5)", "Q(choice_text__contains='a')"),
    ),
    TableSpec(
        "polls.Vote",
        "polls_vote",
        ID,
        {
            "voter_email": text,
            "ip_address": or_null(choose("10.0.0.1", "::1")),
            "weight": choose("1", "1.5000", "-0.0001", "99999999.9999"),
            "cast_at": MOMENT,
        },
        (Link("choice_id", "polls_choice"),),
        filters=("Q(weight__gt=1)", "Q(voter_email__endswith='b')", "Q(pk__lt=6)"),
    ),
    TableSpec(
        "pages.Tag",
        "pages_tag",
        ID,
        {"name": unique_name},
        unique=("name", "text"),
        filters=("Q(name__startswith='a')", "Q(pk__lt=6)", "~Q(name__startswith='b')"),
    ),
    TableSpec(
        "pages.Page",
        "pages_page",
        ID,
        {"slug": unique_name, "title": text, "body": big, "live": choose(True, False)},
        (Link("parent_id", "pages_page", nullable=True),),
        unique=("slug", "text"),
        filters=("Q(live=True)", "Q(title__startswith='a')", "Q(slug__startswith='a')"),
    ),
    TableSpec(
        "pages.Article",
        "pages_article",
        {"page_ptr_id": picked("pages_page")},
        {"summary": big, "read_minutes": number(0, 9)},
        (Link("page_ptr_id", "pages_page"),),
        filters=("Q(read_minutes__gt=4)", "Q(summary='a')"),
    ),
    TableSpec(
        "pages.Page_tags",
        "pages_page_tags",
        ID,
        {},
        (Link("page_id", "pages_page"), Link("tag_id", "pages_tag")),
        filters=("Q(pk__lt=6)",),
    ),
    TableSpec(
        "pages.Labelling",
        "pages_labelling",
        ID,
        {"note": text},
        (Link("page_id", "pages_page"), Link("tag_id", "pages_tag")),
        filters=("Q(note__contains='a')", "~Q(note='')"),
    ),
    TableSpec(
        "pages.Remark",
        "pages_remark",
        ID,
        {
            "content_type_id": _kind("pages.page", "pages.article", "pages.remark", "polls.choice"),
            "object_id": ids,
            "text": big,
        },
        filters=("Q(object_id__lt=6)", "Q(text__startswith='a') | Q(text__startswith='0')"),
    ),
    TableSpec(
        "shop.Supplier",
        "shop_supplier",
        UUID,
        {"name": unique_name},
        unique=("name", "text"),
        filters=("Q(name__startswith='a')", "~Q(name__contains='3')"),
    ),
    TableSpec(
        "shop.Product",
        "shop_product",
        UUID,
        {
            "sku": unique_name,
            "region": choose("ch", "de"),
            "price": choose("1", "1.50", "99999999.99", "-3.00"),
            "active": choose(True, False),
        },
        (
            Link("supplier_id", "shop_supplier"),
            Link("replaced_by_id", "shop_product", nullable=True),
        ),
        unique=("sku", "text"),
        filters=("Q(active=True)", "Q(price__gt=1)", "Q(region='ch')"),
    ),
    TableSpec(
        "shop.Stock",
        "shop_stock",
        {"product_id": picked("shop_product")},
        {"amount": number(0, 9)},
        (Link("product_id", "shop_product"),),
        filters=("Q(amount__gt=4)",),
    ),
    TableSpec(
        "shop.Order",
        "shop_order",
        ID,
        {"number": unique_name},
        (Link("customer_id", "auth_user", nullable=True),),
        unique=("number", "text"),
        filters=("Q(number__startswith='a')", "Q(customer=None)"),
    ),
    TableSpec(
        "shop.OrderLine",
        "shop_orderline",
        ID,
        {"amount": number(0, 9)},
        (Link("order_id", "shop_order"), Link("product_id", "shop_product")),
        filters=("Q(amount__gt=4)",),
    ),
    TableSpec(
        "shop.Note",
        "shop_note",
        ID,
        {
            "content_type_id": or_null(
                _kind("shop.order", "shop.product", "shop.supplier", "shop.note", "pages.page"), 0.1
            ),
            "object_id": lambda chance: (
                quoted(ids(chance)) if chance.random() < 0.4 else _text_key(chance)
            ),
            "text": text,
        },
        filters=("Q(pk__lt=6)", "Q(text__contains='a')", "Q(content_type=None)"),
    ),
    TableSpec(
        "shop.Watch",
        "shop_watch",
        {"user_id": picked("auth_user"), "product_id": picked("shop_product")},
        {},
        (Link("user_id", "auth_user"), Link("product_id", "shop_product")),
    ),
    TableSpec(
        "shop.Team",
        "shop_team",
        ID,
        {"name": unique_name},
        (Link("captain_id", "shop_member", nullable=True),),
        unique=("name", "text"),
        filters=("Q(captain=None)", "Q(name__startswith='a')"),
    ),
    TableSpec(
        "shop.Member",
        "shop_member",
        ID,
        {"name": text},
        (Link("team_id", "shop_team"),),
        filters=("Q(name='a')", "Q(pk__lt=6)"),
    ),
    TableSpec(
        "kinds.Specimen",
        "kinds_specimen",
        ID,
        {
            "small": or_null(number(-5, 5)),
            "big": or_null(choose(0, 2**63 - 1, -(2**63))),
            "yes": or_null(choose(True, False)),
            "real": or_null(choose("NaN", "Infinity", "0.1", "-0", "1e300")),
            "exact": or_null(choose("0", "1.5", "1.5000000000", "-12345678901234567890")),
            "line": or_null(text),
            "text": or_null(big),
            "moment": or_null(MOMENT),
            "lasting": or_null(choose("1 day", "-25:00:00.000001", "1 mon 3 days")),
            "key": or_null(uuids),
            "raw": or_null(choose("\\x00ff", "\\x", "\\x5c6e")),
            "data": or_null(
                choose("{}", '{"a": "\\u00e9\\n", "b": [1.0, null]}', "null", '"\\\\"')
            ),
            "numbers": or_null(choose("{}", "{1,NULL,3}")),
            "words": or_null(choose("{}", '{{a,NULL},{"NULL","b \\"c\\" \\\\ {}"}}')),
            "span": or_null(choose("empty", "[1,5)", "(,3)")),
            "mood": or_null(choose("sad", "ok", "happy")),
        },
        filters=(
            "Q(yes=True)",
            "Q(small__lt=0)",
            "Q(small=None)",
            "Q(exact__range=(1, 2))",
            "Q(mood__isnull=False)",
            "~Q(line='a')",
            "Q(real__gt=1)",
        ),
    ),
    TableSpec(
        "kinds.Reading",
        "kinds_reading",
        {
            "sensor": number(1, 4),
            "taken_on": choose("2025-06-01", "2026-06-01", "2031-01-01"),
        },
        {"value": choose("0", "20.5", "1e-300", "NaN", "21")},
        filters=("Q(value__gt=20.5)", "Q(sensor__lt=3)", "Q(sensor=1, value__lt=5)"),
    ),
)
BY_LABEL = {spec.label: spec for spec in SPECS}
BY_NAME = {spec.name: spec for spec in SPECS}


def referrers(name: str) -> Sequence[tuple[TableSpec, Link]]:
    """List the links that point at a table."""
    return [(spec, link) for spec in SPECS for link in spec.links if link.to == name]
