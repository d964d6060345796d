"""What happens beside training: measurements while it goes on."""

from hfcourse.callbacks.evaluate import EvaluateCallback

__all__ = ["EvaluateCallback"]
