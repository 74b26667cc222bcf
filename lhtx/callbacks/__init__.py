"""What a run does besides training: callbacks that a config names."""

from lhtx.callbacks.early_stopping import EarlyStopping
from lhtx.callbacks.gradient_statistics import GradientStatistics
from lhtx.callbacks.logged_metrics import LoggedMetrics
from lhtx.callbacks.network_summary import NetworkSummary
from lhtx.callbacks.own_hyperparameters import OwnHyperparameters
from lhtx.callbacks.plateau_state import PlateauState
from lhtx.callbacks.progress import TrainingProgress
from lhtx.callbacks.random_state import RandomState
from lhtx.callbacks.spawned_steps import SpawnedSteps
from lhtx.callbacks.step_log import StepLog
from lhtx.callbacks.without_dropout import WithoutDropout

__all__ = [
    "EarlyStopping",
    "GradientStatistics",
    "LoggedMetrics",
    "NetworkSummary",
    "OwnHyperparameters",
    "PlateauState",
    "RandomState",
    "SpawnedSteps",
    "StepLog",
    "TrainingProgress",
    "WithoutDropout",
]
