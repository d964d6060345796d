"""Figures of answers and classes, from libraries that ask no Hub."""

from hfcourse.metrics.classes import class_metrics
from hfcourse.metrics.texts import normalized, text_metrics

__all__ = ["class_metrics", "normalized", "text_metrics"]
