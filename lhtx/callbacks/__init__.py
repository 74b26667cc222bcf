"""What a run does besides training: callbacks that a config names."""

from lhtx.callbacks.gradient_statistics import GradientStatistics
from lhtx.callbacks.logged_metrics import LoggedMetrics
from lhtx.callbacks.plateau_state import PlateauState
from lhtx.callbacks.random_state import RandomState

__all__ = ["GradientStatistics", "LoggedMetrics", "PlateauState", "RandomState"]
