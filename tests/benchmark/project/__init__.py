"""The Django project that is replicated: one table of rows of about 140 bytes, and a signal."""
