"""What a careless operator does to a target behind apply's back, for a backfill to mend. Pure.

Played with triggers off, so that foreign keys may dangle. Local rows are left alone, and so is
what stays for them or by a policy: no backfill looks at that.
"""

from collections.abc import Sequence
from random import Random

from tests.support.oracle.history import Rule
from tests.support.oracle.tables import BY_LABEL, TableSpec, quoted

PLANTED = 800_000
PLANTED_UUID = "eeeeeeee"
"""Where the keys begin of rows that the source never had."""

_HELD = """EXISTS (SELECT FROM replicator."public.{table}" r WHERE {same}
HAVING min(r.subscription_id) > 0)"""


def meddling(datasets: dict[str, Sequence[Rule]], chance: Random) -> list[str]:
    """Draw statements, one transaction: rows are lost, changed, planted."""
    found: list[str] = []
    for _ in range(chance.choice([1, 2, 4])):
        name = chance.choice(list(datasets))
        spec = BY_LABEL[chance.choice(datasets[name])[0]]
        found += chance.choice([_lose, _lose_all_of, _change, _plant, _plant])(spec, name, chance)
    return found


def _held(spec: TableSpec, chance: Random) -> str:
    """Give a condition for some of the rows that subscriptions hold."""
    same = " AND ".join(f"r.{name} = t.{name}" for name in spec.key)
    salt, key = chance.randrange(10**6), next(iter(spec.key))
    some = f"hashtext(t.{key}::text || {salt}::text) % {chance.choice([1, 2, 3])} = 0"
    return f"{some} AND {_HELD.format(table=spec.name, same=same)}"


def _lose(spec: TableSpec, _: str, chance: Random) -> list[str]:
    return [f"DELETE FROM {spec.name} t WHERE {_held(spec, chance)}"]


def _lose_all_of(spec: TableSpec, _: str, chance: Random) -> list[str]:
    """Lose rows and their receipts."""
    keys = ", ".join(f"t.{name}" for name in spec.key)
    names = ", ".join(spec.key)
    return [
        f"WITH lost AS (DELETE FROM {spec.name} t WHERE {_held(spec, chance)} RETURNING {keys}) "
        f'DELETE FROM replicator."public.{spec.name}" r '
        f"WHERE ({names}) IN (SELECT {names} FROM lost)"
    ]


def _change(spec: TableSpec, _: str, chance: Random) -> list[str]:
    names = [name for name in spec.columns if spec.unique is None or name != spec.unique[0]]
    if not names:
        return []
    name = chance.choice(names)
    value = spec.columns[name](chance)
    return [f"UPDATE {spec.name} t SET {name} = {value} WHERE {_held(spec, chance)}"]


def _plant(spec: TableSpec, dataset: str, chance: Random) -> list[str]:
    """Plant a receipt, with a row or without one."""
    n = chance.randrange(1000)
    key = {name: _planted_key(spec, name, n) for name in spec.key}
    receipt = (
        f'INSERT INTO replicator."public.{spec.name}" (subscription_id, generation, '
        f"{', '.join(key)}) SELECT s.id, s.generation, {', '.join(key.values())} "
        f"FROM replicator_subscription s WHERE s.dataset = {quoted(dataset)}"
    )
    if chance.random() < 0.3:
        return [receipt]
    values = {name: draw(chance) for name, draw in spec.columns.items()} | key
    if spec.unique:
        values[spec.unique[0]] = str(n + 5000) if spec.unique[1] == "integer" else f"'planted-{n}'"
    values |= {x.column: "NULL" for x in spec.links if x.nullable}
    values |= {x.column: _planted_key(spec, x.column, n) for x in spec.links if not x.nullable}
    values |= spec.fixed
    row = f"INSERT INTO {spec.name} ({', '.join(values)}) VALUES ({', '.join(values.values())})"
    return [row, receipt]


def _planted_key(spec: TableSpec, name: str, n: int) -> str:
    if name == "taken_on":
        return "'2026-03-03'"
    link = spec.link(name)
    if link is not None:
        spec, name = next(s for s in BY_LABEL.values() if s.name == link.to), link.to_column
        return _planted_key(spec, name, n)
    kind = spec.key[name](Random(0))
    return quoted(f"{PLANTED_UUID}-0000-4000-8000-{n:012d}") if "-" in kind else str(PLANTED + n)
