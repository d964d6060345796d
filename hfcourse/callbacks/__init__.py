"""What happens beside training: measurements while it goes on."""

from hfcourse.callbacks.evaluate import EvaluateCallback
from hfcourse.callbacks.overoptimization import OveroptimizationCallback

__all__ = ["EvaluateCallback", "OveroptimizationCallback"]
