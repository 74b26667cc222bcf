"""What a sweep found: its trials and their histories as DataFrames, and the report made from them.

>>> from analysis import load
>>> sweep = load("quickstart")                                  # doctest: +SKIP
>>> sweep.trials.sort_values(["value"], ascending=False).head()  # doctest: +SKIP
"""

from analysis.load import Sweep, load

__all__ = ["Sweep", "load"]
