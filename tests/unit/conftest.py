"""Hypothesis measures no time here: a busy machine is no defect of what is tested."""

from hypothesis import HealthCheck, settings

settings.register_profile("replicator", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("replicator")
