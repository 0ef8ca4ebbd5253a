"""Supervised meta-learning: few-shot regression and classification."""

from metarl.supervised.labelled import LabelledSet
from metarl.supervised.regression import RegressionFamily

__all__ = ["LabelledSet", "RegressionFamily"]
