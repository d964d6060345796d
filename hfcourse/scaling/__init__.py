"""Scaling laws: fitted to runs, and used to plan the next one."""

from hfcourse.scaling.bootstrap import bootstrap_laws, interval
from hfcourse.scaling.frontier import Frontier, isoflop_parabolas, training_curve_envelope
from hfcourse.scaling.laws import ScalingLaw, fit_scaling_law

__all__ = [
    "Frontier",
    "ScalingLaw",
    "bootstrap_laws",
    "fit_scaling_law",
    "interval",
    "isoflop_parabolas",
    "training_curve_envelope",
]
