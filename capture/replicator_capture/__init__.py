"""The source side: logical replication in, the log out, and the fetches that targets ask for."""
