"""The pure parts of a fetch: inbox, spool, retention, plan, text of COPY, memberships."""

from collections.abc import Callable

import msgspec
import pytest

from replicator.envelope import Answer
from replicator.errors import WrongDeclaration
from replicator.plan import DatasetPlan, Release, RowsRule, TableName
from replicator.positions import Lsn
from replicator.requests import KeysRequest, PageRequest, PlanItem, Report, encode
from replicator.stop import Stop
from replicator_capture.answer_plan import Refusal, resolve
from replicator_capture.assemble import Commitment, Retain
from replicator_capture.desk import Desk, Reading, Retention
from replicator_capture.inbox import (
    BURST,
    REQUESTS_PER_SECOND,
    WAITING_PER_TARGET,
    Allowance,
    Inbox,
)
from replicator_capture.keeper import Memberships
from replicator_capture.publication import Relation, lacking_identity
from replicator_capture.rowtext import parse_line
from replicator_capture.spool import Spool
from replicator_capture.table_read import key_text
from replicator_capture.visibility import Snapshot, Unseen
from replicator_capture.worker import Worker

POLL, TAG = TableName("public", "poll"), TableName("public", "tag")
PLAN = (PlanItem(dataset="polls", fingerprint="f"),)


def keys(number: object, target: str = "stage") -> KeysRequest:
    return KeysRequest(target=target, id=str(number), plan=PLAN, keys={"public.poll": ((1,),)})


def page(number: object, **more: object) -> PageRequest:
    fields = {"plan": PLAN, "dataset": "polls", "rule": 0, **more}
    return PageRequest(target="stage", id=str(number), **fields)  # type: ignore[arg-type]


class TestInbox:
    def inbox(self) -> tuple[Inbox, Callable[[float], None]]:
        now = [1000.0]
        box = Inbox("main", lambda: now[0])
        return box, lambda seconds: now.__setitem__(0, now[0] + seconds)

    def next_id(self, box: Inbox, *, pages: bool = True) -> str | None:
        found = box.next(pages=pages, timeout=0)
        return None if found is None else found.id

    def test_keys_come_before_pages_and_pages_wait_for_the_reader(self) -> None:
        box, _ = self.inbox()
        for request in (page(1), keys(2), page(3), keys(4)):
            box.receive("stage", encode(request))
        assert [self.next_id(box, pages=False) for _ in range(3)] == ["2", "4", None]
        assert [self.next_id(box) for _ in range(3)] == ["1", "3", None]

    def test_a_repeat_is_answered_once_until_it_must_have_been_lost(self) -> None:
        box, sleep = self.inbox()
        for _ in range(2):
            box.receive("stage", encode(keys(1)))
        request = box.next(pages=True, timeout=0)
        assert request is not None
        assert self.next_id(box) is None
        box.answered(request, refused=False)
        box.receive("stage", encode(keys(1)))
        assert self.next_id(box) is None
        sleep(30)
        box.receive("stage", encode(keys(1)))
        assert self.next_id(box) == "1"

    def test_a_repeat_that_comes_while_its_request_is_read_is_dropped(self) -> None:
        box, _ = self.inbox()
        for refused in (False, True):
            box.receive("stage", encode(keys(refused)))
            request = box.next(pages=True, timeout=0)
            assert request is not None
            box.receive("stage", encode(keys(refused)))
            box.answered(request, refused=refused)
            assert self.next_id(box) is None

    def test_what_was_refused_is_tried_again_at_once(self) -> None:
        box, _ = self.inbox()
        for _ in range(3):
            box.receive("stage", encode(page(1)))
            request = box.next(pages=True, timeout=0)
            assert request is not None
            box.answered(request, refused=True)

    def test_under_another_plan_a_request_is_no_repeat(self) -> None:
        box, _ = self.inbox()
        other = page(1, plan=(PlanItem(dataset="polls", fingerprint="e" * 16),))
        box.receive("stage", encode(page(1)))
        request = box.next(pages=True, timeout=0)
        assert request is not None
        box.receive("stage", encode(page(1)))
        box.receive("stage", encode(other))
        box.answered(request, refused=False)
        assert box.next(pages=True, timeout=0) == other
        box.receive("stage", encode(other))
        box.receive("stage", encode(page(1)))
        box.answered(other, refused=False)
        assert box.next(pages=True, timeout=0) == page(1)

    def test_a_target_that_asks_too_much_does_not_starve_others(self) -> None:
        box, _ = self.inbox()
        for number in range(WAITING_PER_TARGET + 5):
            box.receive("stage", encode(keys(number)))
        box.receive("dev", encode(keys("x", "dev")))
        found = [self.next_id(box) for _ in range(WAITING_PER_TARGET + 2)]
        assert found[-2:] == ["x", None]

    def test_what_is_not_the_targets_own_is_ignored(self) -> None:
        box, _ = self.inbox()
        box.receive("stage", b"garbage")
        box.receive("stage", encode(keys(1, "dev")))
        assert self.next_id(box) is None

    def test_the_last_report_is_kept(self) -> None:
        box, _ = self.inbox()
        for at in (1, 2):
            box.receive("stage", encode(Report(target="stage", at_ms=at)))
        assert box.reports["stage"][0].at_ms == 2

    def test_the_pages_of_a_fast_target_are_all_taken(self) -> None:
        box, sleep = self.inbox()
        for number in range(20_000):
            sleep(1 / 200)
            box.receive("stage", encode(page(number)))
            assert box.next(pages=True, timeout=0) == page(number)

    def test_requests_without_end_are_ignored(self) -> None:
        box, sleep = self.inbox()
        taken = 0
        for number in range(20_000):
            sleep(1 / 20_000)
            box.receive("stage", encode(keys(number)))
            taken += box.next(pages=True, timeout=0) is not None
        assert BURST <= taken < BURST + REQUESTS_PER_SECOND + 1

    def test_allowance_fills_with_time(self) -> None:
        allowance = Allowance(rate=2, burst=3)
        assert [allowance.take(100.0) for _ in range(4)] == [True, True, True, False]
        assert [allowance.take(101.0) for _ in range(3)] == [True, True, False]
        assert [allowance.take(999.0) for _ in range(4)] == [True, True, True, False]


def test_a_spool_gives_what_it_took_however_much() -> None:
    spool = Spool()
    rows = [((b"key %d" % n, b"x" * 20_000), (POLL, TAG)[n % 2], n) for n in range(1_000)]
    for row, table, xid in rows:
        spool.add(row, table, xid)
    read = [[(b"a", b"1"), (b"b", b"2")], [(b"c", b"3")]]
    for some in read:
        spool.add_all(some, POLL)
    rows += [(row, POLL, 0) for some in read for row in some]
    for _ in range(2):
        assert [(row, each.table, each.xid) for each in spool for row in each.rows] == rows
    assert len(spool) == len(rows)
    spool.close()
    spool.close()


def test_a_spool_keeps_rows_of_one_transaction_and_table_together() -> None:
    spool = Spool()
    for number in range(5_000):
        spool.add((b"%d" % number, b"x" * 100), POLL, 7)
    blocks = list(spool)
    assert [int(key) for block in blocks for key, _ in block.rows] == [*range(5_000)]
    assert 5 < len(blocks) < 20
    spool.close()


class Reader:
    """What the desk needs of the assembler."""

    retain: Retain | None = None
    open_xid: int | None = 12


class TestDesk:
    def test_a_fetch_meets_the_reader(self) -> None:
        desk, reader, unseen, stop = Desk(), Reader(), Unseen(), Stop()
        unseen.add([Commitment(10, Lsn(1), Lsn(2), 0)])
        opened: list[Retention] = []
        worker = Worker("fetch", lambda: opened.append(desk.open(frozenset({POLL}), stop)))
        while not opened:
            desk.turn(reader, unseen)
        worker.join(1)
        (retention,) = opened
        assert reader.retain is retention
        assert retention.noted == {10, 12}, "unseen commits and the transaction being read"
        for xid, table in ((11, POLL), (13, POLL), (14, TAG), (15, POLL)):
            retention((b"%d" % xid, b""), table, xid, Lsn(9))
        snapshot = Snapshot(11, 15, frozenset({13}))
        answer = Answer("stage", "1", "f")
        reading = Reading(answer, Spool(), snapshot, retention)
        reading.rows.add((b"row", b""), POLL)
        desk.register(b"id", reading)
        assert desk.take(b"other") is None
        assert desk.take(b"id") is reading
        assert desk.take(b"id") is None
        told = [(block.rows[0][0], read) for block, read in reading.events()]
        assert told == [(b"row", True), (b"13", False), (b"15", False)]
        reading.finish(published=True)
        assert reading.wait(stop)
        desk.close(b"id", retention)
        desk.turn(reader, unseen)
        assert reader.retain is None
        retention((b"late", b""), POLL, 16, Lsn(9))
        reading.rows.close()
        stop.close()

    def test_what_the_snapshot_sees_is_not_kept(self) -> None:
        retention = Retention(frozenset({POLL}))
        retention.snapshot = Snapshot(20, 20, frozenset())
        for xid in (19, 20):
            retention((b"%d" % xid, b""), POLL, xid, Lsn(9))
        everything = Snapshot(0, 0, frozenset())
        assert [block.xid for block in retention.unseen(everything)] == [20]
        retention.close()


RELEASE = Release("polls.Poll", POLL, ("id",), ("id", "text"))
POLLS = DatasetPlan("polls", "main", (RowsRule("polls.Poll"),), (RELEASE,), "f")
OTHER = DatasetPlan("other", "another", (RowsRule("polls.Poll"),), (RELEASE,), "f")


def find(name: str, arguments: str) -> DatasetPlan:
    """Find `polls` with the arguments 3 or 4, or none, and a dataset of another stream."""
    found = {each.name: each for each in (POLLS, OTHER)}.get(name)
    if found is None or arguments not in ("", "3", "4"):
        raise WrongDeclaration("no such dataset", check_id="replicator.E041")
    return msgspec.structs.replace(found, arguments=arguments)


def wanting(*items: tuple[str, str]) -> tuple[PlanItem, ...]:
    return tuple(PlanItem(dataset=n, arguments=a, fingerprint="f") for n, a in items)


class TestPlan:
    @pytest.mark.parametrize(
        ("request_", "words"),
        [
            (keys(1).model_copy(update={"keys": {"public.secret": ((1,),)}}), "no dataset"),
            (keys(1).model_copy(update={"keys": {"public.poll": ((1, 2),)}}), "another number"),
            (keys(1, "stranger"), "TARGETS"),
            (keys(1).model_copy(update={"plan": (PlanItem(dataset="x", fingerprint="f"),)}), "no "),
            (
                keys(1).model_copy(update={"plan": (PlanItem(dataset="polls", fingerprint="g"),)}),
                "differently",
            ),
            (
                keys(1).model_copy(update={"plan": wanting(("polls", "x"))}),
                "rows of polls: no such dataset",
            ),
            (keys(1).model_copy(update={"plan": wanting(("other", ""))}), "another stream"),
            (page(1, arguments="3"), "not in the plan"),
            (page(1, rule=7), "no rule"),
            (page(1, dataset="other"), "not in the plan"),
            (page(1, after=(1, 2)), "another number"),
        ],
    )
    def test_refuses(self, request_: KeysRequest | PageRequest, words: str) -> None:
        with pytest.raises(Refusal, match=words):
            resolve(request_, "main", find, lambda target, _: target == "stage")

    def test_resolves(self) -> None:
        plan = resolve(page(1), "main", find, lambda *_: True)
        assert plan.page == (POLLS.rules[0], RELEASE)
        assert plan.tables == {POLL}

    def test_resolves_one_dataset_with_several_arguments(self) -> None:
        plan = wanting(("polls", "3"), ("polls", "4"))
        asked = page(1, arguments="4").model_copy(update={"plan": plan})
        found: list[str] = []

        def noting(name: str, arguments: str) -> DatasetPlan:
            found.append(arguments)
            return find(name, arguments)

        assert resolve(asked, "main", noting, lambda *_: True).page == (POLLS.rules[0], RELEASE)
        assert found == ["3", "4"]

    def test_names_all_datasets_that_are_refused(self) -> None:
        items = (
            *wanting(("polls", "3"), ("other", "")),
            PlanItem(dataset="polls", fingerprint="g"),
        )
        with pytest.raises(Refusal, match=r"another stream.*differently") as caught:
            resolve(page(1).model_copy(update={"plan": items}), "main", find, lambda *_: True)
        assert caught.value.datasets == ("other", "polls")

    def test_a_request_that_makes_no_sense_is_not_blamed_on_its_datasets(self) -> None:
        with pytest.raises(Refusal, match="no rule") as caught:
            resolve(page(1, rule=7), "main", find, lambda *_: True)
        assert caught.value.datasets == ()

    def test_what_is_not_allowed_is_not_even_compiled(self) -> None:
        def never(name: str, arguments: str) -> DatasetPlan:
            raise AssertionError(name)

        with pytest.raises(Refusal, match="TARGETS"):
            resolve(page(1), "main", never, lambda *_: False)


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        (b"1\ttext\t", [b"1", b"text", b""]),
        (b"\\N\t\\\\N\t\\t\\n\\r\\b\\f\\v", [None, b"\\N", b"\t\n\r\b\f\v"]),
        (b"\\\\x00ff", [b"\\x00ff"]),
        ("Zürich\\\\".encode(), ["Zürich\\".encode()]),
    ],
)
def test_copy_text(line: bytes, texts: list[bytes | None]) -> None:
    assert parse_line(line) == texts


def test_key_text() -> None:
    assert [key_text(value) for value in (1, True, False, "a")] == ["1", "t", "f", "a"]


def test_a_membership_is_told_when_older_transactions_have_ended() -> None:
    memberships = Memberships()
    memberships.update({"public.poll": 100}, Snapshot(5, 9, frozenset({5})))
    assert memberships.settled(Snapshot(8, 20, frozenset({8}))) == {}
    assert memberships.settled(Snapshot(9, 20, frozenset({9}))) == {"public.poll": 100}
    memberships.update({"public.poll": 101}, Snapshot(9, 20, frozenset()))
    assert memberships.settled(Snapshot(19, 20, frozenset())) == {}


@pytest.mark.parametrize(
    ("identity", "columns", "kind", "lacks"),
    [
        ("d", ["id"], "r", False),
        ("d", [], "r", True),
        ("i", ["slug"], "r", True),
        ("i", ["slug", "id"], "r", False),
        ("n", [], "r", True),
        ("f", [], "r", False),
        ("n", [], "p", False),
    ],
)
def test_identity(identity: str, columns: list[str], kind: str, *, lacks: bool) -> None:
    relation = Relation(1, 1, "public", "poll", kind, "p", identity, columns, ["id"])
    assert bool(lacking_identity(relation, ["id"])) is lacks
