"""A Django project with what real ones have; run as one environment per process."""
