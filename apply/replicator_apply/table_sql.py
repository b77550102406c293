"""All statements on one table, composed once a session. Pure."""

from replicator_apply.direct_sql import DirectSql
from replicator_apply.reference_sql import ReferenceSql
from replicator_apply.staging_sql import StagingSql
from replicator_apply.unique_sql import UniqueSql


class TableSql(StagingSql, ReferenceSql, UniqueSql, DirectSql):
    """Statements on one table; each attribute or method gives text ready to execute."""
