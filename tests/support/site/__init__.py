"""A Wagtail site, of which one section is replicated; run as one environment per process."""
