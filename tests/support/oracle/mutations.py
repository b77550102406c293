"""The algorithm's rules, left out one at a time by a change of the product's text; see `MUTATIONS`.

Each must be caught by the oracle: else either the oracle does not look, or the rule is not needed.
A mutation replaces text in the body of a function, wherever that is referred to from, and complains
if the text is not there exactly once: whoever changes the product changes its mutations.

The model of the algorithm has mutations of its own. Most are here, under a similar name. These have
no counterpart, or none that a history can meet:

    TRUNCATE not repeated in answers             a fetch holds locks that TRUNCATE waits for, from
                                                 before its snapshot until its answer has its place
    snapshot taken while this run lacks events   needs a commit that is read before it is visible:
    slot confirmed beyond the last record        tests/integration/test_capture_daemon.py has a
                                                 synchronous standby that is away
    runs mixed in one transaction                one slot feeds one run at a time, and transactions
    restart reads on, not from open fragments    of histories are published whole:
    hole not noticed                             tests/unit/test_apply_assemble.py, tests/fault
    checks of the rules left out                 histories have plans that pass them:
                                                 tests/unit/test_checks.py
    answer to an older plan counts               subscriptions do not come and go in histories
    local row with the same key overwritten      the source never uses the keys and values of local
    local unique value ignored                   rows: the stream would stand until a person comes;
    quarantined key forgotten                    tests/integration/test_apply_rules.py,
    dependants of a quarantined key in a loop    tests/integration/test_apply_unique.py
    fuse never lifted                            histories have none, for they delete at random:
                                                 tests/integration/test_apply.py
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any

from tests.support.oracle.history import History

Edit = tuple[str, str, str]
"""Function as `module:Class.name`, text of its body, text instead."""


@dataclass(frozen=True)
class Mutation:
    """A rule that is left out.

    Attributes:
        name: what is left out, or done wrongly.
        edits: how.
        about: texts that a history's datasets must contain for the rule to matter; any of those of
            a tuple.
        steps: texts that its steps or knobs must contain.
    """

    name: str
    edits: tuple[Edit, ...]
    about: tuple[str | tuple[str, ...], ...] = ()
    steps: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """Its name as that of a file."""
        return re.sub(r"\W+", "-", self.name)

    def concerns(self, history: History) -> bool:
        """Whether a history may meet it."""
        rules, told = repr(history.datasets), repr((history.steps, history.knobs))
        wanted = ((text,) if isinstance(text, str) else text for text in self.about)
        return all(any(t in rules for t in texts) for texts in wanted) and all(
            text in told for text in self.steps
        )

    @contextmanager
    def made(self) -> Iterator[None]:
        """Run the body with the product changed.

        Raises:
            LookupError: the text to be replaced is not there, or more than once.
        """
        with ExitStack() as stack:
            by_function: dict[str, list[Edit]] = {}
            for edit in self.edits:
                by_function.setdefault(edit[0], []).append(edit)
            for path, edits in by_function.items():
                function = _function(path)
                stack.callback(setattr, function, "__code__", function.__code__)
                function.__code__ = _edited(function, edits)
            yield


def _function(path: str) -> FunctionType:
    """Find a function, below its decorators."""
    module, _, name = path.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    elif isinstance(found, cached_property):
        found = found.func
    found = inspect.unwrap(found)
    assert isinstance(found, FunctionType), path
    return found


def _edited(function: FunctionType, edits: Sequence[Edit]) -> CodeType:
    """Compile a function's text, changed."""
    text = textwrap.dedent(inspect.getsource(function))
    for path, old, new in edits:
        if text.count(old) != 1:
            raise LookupError(f"{text.count(old)} times in {path}: {old}")
        text = text.replace(old, new)
    tree = ast.parse(text)
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    compiled = compile(tree, function.__code__.co_filename, "exec")
    return next(
        each
        for each in compiled.co_consts
        if isinstance(each, CodeType) and each.co_name == function.__name__
    )


_LINKED = ("Children", "Referenced")
_NULL = ("'null'",)

MUTATIONS: tuple[Mutation, ...] = (
    # Capture: answers -----------------------------------------------------------------------------
    Mutation(
        "the replay of events that the snapshot does not see is left out",
        (("replicator_capture.desk:Reading.events", "if self.snapshot is not None:", "if False:"),),
    ),
    Mutation(
        "what is replayed is left out of what was read",
        (
            (
                "replicator_capture.desk:Reading.events",
                "yield block, True",
                "again = {r[0] for b in self.retention.unseen(self.snapshot) for r in b.rows} "
                "if self.snapshot else set()\n"
                "        yield block._replace(rows=[r for r in block.rows if r[0] not in again]), "
                "True",
            ),
        ),
        about=(_LINKED,),
    ),
    Mutation(
        "only what begins behind the snapshot counts as unseen",
        (
            (
                "replicator_capture.visibility:visible",
                "wide < snapshot.xmax and wide not in snapshot.running",
                "wide < snapshot.xmax",
            ),
        ),
        steps=("'open'",),
    ),
    Mutation(
        "keys that are not found are not told of",
        (
            (
                "replicator_capture.answer_read:RowReader._add_missing",
                "self._rows.add(read.encoder.missing(key), release.table)",
                "pass",
            ),
        ),
    ),
    Mutation(
        "an answer is not closed downwards to children",
        (
            (
                "replicator_capture.closure:links",
                "if isinstance(rule, ChildrenRule):",
                "if False:",
            ),
        ),
        about=("Children",),
    ),
    Mutation(
        "an answer is not closed downwards to rows that wait",
        (("replicator_capture.closure:links", "sorted(gates(datasets), key=str)", "()"),),
        about=("'required'",),
    ),
    Mutation(
        "an answer has the children of one of two parents only",
        (("replicator_capture.closure:links", "_down, rule.edges", "_down, rule.edges[:1]"),),
        about=(("'page', 'tag'", "'user', 'product'"),),
    ),
    Mutation(
        "an answer is not closed upwards",
        (("replicator_capture.closure:links", "map(_up, _pulling(dataset))", "()"),),
        about=("Referenced",),
    ),
    Mutation(
        "an answer has one level of the tree only",
        (("replicator_capture.answer_read:RowReader._close", "while lookups :=", "if lookups :="),),
        about=(_LINKED,),
    ),
    Mutation(
        "no way leads down from keys that are not found",
        (
            (
                "replicator_capture.closure:Closure.note_missing",
                "if set(link.columns) <= key.keys():",
                "if False:",
            ),
        ),
        about=(("Children", "'required'"),),
    ),
    # Apply: what a batch tells --------------------------------------------------------------------
    Mutation(
        "repetitions are taken again",
        (
            (
                "replicator_apply.assemble:Assembler.feed",
                "or commit < self.position",
                "or False",
            ),
        ),
        steps=("'capture'",),
    ),
    Mutation(
        "the position is stored before the rows",
        (
            (
                "replicator_apply.batch:Applier._transaction",
                "yield cursor",
                "cursor.commit(batch.following, batch.committed_ms); "
                "cursor._begun, cursor._stored = False, batch.following; yield cursor",
            ),
        ),
    ),
    Mutation(
        "tables are written one after the other",
        (
            (
                "replicator_apply.direct:write_directly",
                "settled = found.settled\n",
                "settled = found.settled\n"
                "        cursor.execute('COMMIT')\n"
                "        cursor.execute('BEGIN')\n"
                "        cursor.execute('SET CONSTRAINTS ALL DEFERRED')\n",
            ),
        ),
    ),
    Mutation(
        "a row that is deleted and created again counts as born",
        (
            (
                "replicator_apply.collapse:TableChanges._create",
                "if self.truncated or key in self.gone or key in self.changed:",
                "if key in self.changed:",
            ),
            (
                "replicator_apply.collapse:TableChanges._create",
                "self.born[key] = row",
                "self.gone.pop(key, None)\n        self.born[key] = row",
            ),
        ),
        about=("Children",),
    ),
    Mutation(
        "the columns of a row that was replaced are taken for those of the new one",
        (
            (
                "replicator_apply.collapse:TableChanges._create",
                "self.replaced.add(key)",
                "pass",
            ),
        ),
    ),
    Mutation(
        "columns that did not come are taken for NULL",
        (
            (
                "replicator_apply.stage:_copy_group",
                "whole = kind.number == WHOLE",
                "whole = True",
            ),
        ),
    ),
    Mutation(
        "an update counts as read by a fetch",
        (
            (
                "replicator_apply.collapse:TableChanges._update",
                "if (older := self.born",
                "self.read.add(key)\n    if (older := self.born",
            ),
        ),
        about=("Children",),
    ),
    # Apply: the way without verdicts --------------------------------------------------------------
    Mutation(
        "a new row is settled though what holds it is not ours",
        (("replicator_apply.sieve:Sieve._sort_born", "if not lacking:", "if True:"),),
        about=("Children",),
    ),
    Mutation(
        "a changed row is settled though its ties have changed",
        (
            (
                "replicator_apply.direct_sql:DirectSql._same_ties",
                "return all_of(",
                "return sql.SQL('TRUE')\n    return all_of(",
            ),
        ),
    ),
    Mutation(
        "a changed row that is nobody's is left alone though it passes",
        (
            (
                "replicator_apply.sieve:Sieve.left_of_changed",
                "return numbers - (",
                "return set() and (",
            ),
        ),
    ),
    Mutation(
        "a deleted row goes alone though others hang on it",
        (
            (
                "replicator_apply.make_plan:_Relations.settled",
                "self.closed(name) and not pulled",
                "True",
            ),
        ),
        about=(_LINKED,),
    ),
    # Apply: rules ---------------------------------------------------------------------------------
    Mutation(
        "children of lost rows are not drawn in",
        (
            (
                "replicator_apply.rules:Rules._lose_by",
                "drawn = self._run(text.draw_children(number, edge, other.sql))",
                "drawn = 0",
            ),
        ),
        about=("Children",),
    ),
    Mutation(
        "what lost rows pulled in is not drawn in",
        (
            (
                "replicator_apply.rules:Rules._lose_by",
                "drawn = self._run(text.draw_pulled(number, edge, other.sql))",
                "drawn = 0",
            ),
        ),
        about=("Referenced",),
    ),
    Mutation(
        "what a row pulled in before it pointed elsewhere is not looked at",
        (("replicator_apply.rule_sql:_once_pulled", "any_of(moved)", 'sql.SQL("FALSE")'),),
        about=("Referenced",),
    ),
    Mutation(
        "rows on a ring keep each other alive",
        (
            (
                "replicator_apply.rule_sql:RuleSql.lose_pulled",
                '"EXISTS (SELECT FROM {once_pulled})"',
                '"EXISTS (SELECT FROM {once_pulled}) AND NOT EXISTS (SELECT FROM {c} z "\n'
                '"WHERE {still} AND {inside})", c=referrers.table.candidates, '
                'still=equal(edge.columns, "z", edge.to_columns, "v"), '
                'inside=flag("_in", membership.subscription, "z")',
            ),
        ),
        about=("shop.Member",),
    ),
    Mutation(
        "nothing is derived again",
        (("replicator_apply.rules:Rules._find_in", "return sum(", "return 0 and sum("),),
        about=(_LINKED,),
    ),
    Mutation(
        "rules are followed one step only",
        (("replicator_apply.rules:Rules._repeat", "and self._rings:", "and False:"),),
        about=(("'of': 'parent'", "shop.Member"),),
    ),
    Mutation(
        "what one subscription holds is held for all",
        (
            (
                "replicator_apply.candidate_sql:CandidateSql._flags",
                "was = _has(membership)",
                "was = any_of(_has(m) for m in self.table.memberships)",
            ),
        ),
        about=("'d1'", _LINKED),
    ),
    Mutation(
        "receipts of rows that leave stay",
        (
            (
                "replicator_apply.write:_receipts",
                "cursor.execute(staged.sql.receipts_leave(membership))",
                "pass",
            ),
        ),
    ),
    Mutation(
        "rows that leave are not deleted",
        (
            (
                "replicator_apply.write_sql:WriteSql.delete",
                "s._verdict = 'l' ",
                "s._verdict = 'x' ",
            ),
        ),
    ),
    # Apply: wanted rows ---------------------------------------------------------------------------
    Mutation(
        "an update enters without a fetch",
        (
            (
                "replicator_apply.candidate_sql:CandidateSql._flags",
                "closed=sql.Literal(self.table.closed)",
                "closed=sql.Literal(True)",
            ),
        ),
        about=(("Children", "'required'"),),
    ),
    Mutation(
        "a changed child of a row that is here is not asked for",
        (
            (
                "replicator_apply.rule_sql:RuleSql.may_belong",
                "for rule in membership.children)",
                "for rule in ())",
            ),
        ),
        about=("Children",),
    ),
    Mutation(
        "born rows count as closed though generic children may be older",
        (
            ("replicator_apply.rules:Rules._want_open", "if staged.table.loose:", "if False:"),
            (
                "replicator_apply.make_plan:_Relations.settled",
                "held and not self.loose(name)",
                "held",
            ),
        ),
        about=(("'target'", "pages.Page.remarks"),),
    ),
    Mutation(
        "what new rows pull in is not asked for",
        (("replicator_apply.rules:Rules.want", "in staged.table.pulling:", "in ():"),),
        about=("Referenced",),
    ),
    Mutation(
        "a row whose reference is missing is not asked for",
        (
            (
                "replicator_apply.reference_sql:ReferenceSql.refuse_dangling",
                '"_wanted = v._wanted OR {pulled}, {may}',
                '"{may}',
            ),
        ),
        about=("Referenced",),
    ),
    Mutation(
        "wanted rows are not noted",
        (("replicator_apply.rules:Rules.want", "self._run(staged.sql.want)", "pass"),),
        about=(_LINKED,),
    ),
    Mutation(
        "wanted rows are not struck off",
        (("replicator_apply.rules:Rules.want", "self._run(staged.sql.settled)", "pass"),),
        about=(_LINKED,),
    ),
    Mutation(
        "wanted rows are forgotten once they are asked for",
        (
            (
                "replicator_apply.state:wanted_to_ask",
                "in cursor.execute(_TO_ASK, values):",
                "in [*cursor.execute(_TO_ASK, values)] + [each for each in cursor.execute("
                "'DELETE FROM public.replicator_wantedrow WHERE asked_at IS NOT NULL "
                "RETURNING table_name, row_key') if False]:",
            ),
        ),
        about=(_LINKED,),
    ),
    Mutation(
        "rows that cannot be completed are not asked for",
        (
            (
                "replicator_apply.rule_sql:RuleSql.want_incomplete",
                "v._set = {number}",
                "v._set = -9 - {number}",
            ),
        ),
    ),
    Mutation(
        "the row of a wanted key is taken for a base",
        (
            (
                "replicator_apply.staging_sql:StagingSql.complete",
                "AND {held} AND NOT {wanted}",
                "AND {held} AND ({wanted} IS NOT NULL)",
            ),
        ),
        about=(_LINKED,),
    ),
    # Apply: foreign keys --------------------------------------------------------------------------
    Mutation(
        "foreign keys are not looked at",
        (("replicator_apply.rules:Rules._mend", "for name in self._order:", "for name in ():"),),
        about=(("'required'", "Referenced"),),
    ),
    Mutation(
        "rows that point at what has left are not looked at",
        (
            (
                "replicator_apply.rules:Rules._mend",
                "drawn = self._run(staged.sql.draw_referrers(need.key, self._others))",
                "drawn = 0",
            ),
        ),
        about=("'required'",),
    ),
    Mutation(
        "NULL is not written in rows that arrive",
        (
            (
                "replicator_apply.rules:Rules.null_missing",
                "for statement in staged.sql.null_staged(need, self._others):",
                "for statement in ():",
            ),
        ),
        about=(_NULL,),
    ),
    Mutation(
        "NULL is not written in rows that are here",
        (
            (
                "replicator_apply.rules:Rules.null_missing",
                "for statement in staged.sql.null_held(need, self._others):",
                "for statement in ():",
            ),
        ),
        about=(_NULL,),
    ),
    Mutation(
        "the value for which NULL stands is not restored",
        (("replicator_apply.rules:Rules.restore", "if need.null and", "if False and"),),
        about=(_NULL,),
    ),
    Mutation(
        "NULL is taken for what the source has",
        (
            (
                "replicator_apply.candidate_sql:CandidateSql.true_value",
                "if not any(",
                "if True or any(",
            ),
        ),
        about=("'null': ['parent']", "'of': 'parent'"),
    ),
    # Apply: local rows, unique values, rows that stay ---------------------------------------------
    Mutation(
        "rows leave though local rows point at them",
        (
            (
                "replicator_apply.rules:Rules._keep",
                "for staged in list(self._filled()):",
                "for staged in ():",
            ),
        ),
        steps=("'local'",),
    ),
    Mutation(
        "what a kept row points at is not kept",
        (
            (
                "replicator_apply.rules:Rules.follow",
                "while self._keep():",
                "if self._keep():",
            ),
        ),
        steps=("'local'",),
    ),
    Mutation(
        "kept rows are not tried again",
        (
            (
                "replicator_apply.batch:Applier._apply_whole",
                "retry_kept = self.kept and",
                "retry_kept = False and",
            ),
        ),
        steps=("'local'",),
    ),
    Mutation(
        "an old version stands on a unique value of another row",
        (
            (
                "replicator_apply.rules:Rules.evict",
                "moved += self._run(staged.sql.evict_unsure(conflict))",
                "pass",
            ),
        ),
        about=(_LINKED,),
    ),
    Mutation(
        "unique values are not freed",
        (
            (
                "replicator_apply.write:write",
                "written = _write_rows(cursor, rules, _filled(batch), freeing=True)",
                "written = _write_rows(cursor, rules, _filled(batch), freeing=False)",
            ),
        ),
    ),
    Mutation(
        "rows that left and stay are not marked",
        (
            (
                "replicator_apply.write:_write_rows",
                "if staged.table.mark:",
                "if False:",
            ),
        ),
        about=("'soft'",),
    ),
    Mutation(
        "rows that left and stay keep no receipt",
        (("replicator_apply.write:_receipts", "if staged.table.stay:", "if False:"),),
        about=("'keep'",),
    ),
    Mutation(
        "what is back counts as left",
        (
            (
                "replicator_apply.write:_write_rows",
                "cursor.execute(staged.sql.receipts_back)",
                "pass",
            ),
        ),
        about=(("'keep'", "'soft'"),),
    ),
    # Apply: what the source chooses, backfills ----------------------------------------------------
    Mutation(
        "what is chosen no more stays",
        (("replicator_apply.rules:Rules.look", "in self._choices:", "in ():"),),
        about=("latest(",),
    ),
    Mutation(
        "what a backfill has read keeps its old receipt",
        (
            (
                "replicator_apply.candidate_sql:CandidateSql.receipts_enter",
                "AND ({closed} OR NOT {was}) ",
                "AND ({closed} IS NULL OR NOT {was}) ",
            ),
        ),
        steps=("'backfill'",),
    ),
    Mutation(
        "a backfill ends without its sweep",
        (
            (
                "replicator_apply.backfill:advance_sweep",
                "if suspects == 0:",
                "if True:",
            ),
        ),
        steps=("'backfill'",),
    ),
)
