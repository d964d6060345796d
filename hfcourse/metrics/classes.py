"""Classes against labels: accuracy and macro F1, by scikit-learn."""

from collections.abc import Sequence

from hfcourse.evaluation.statistics import estimate


def class_metrics(predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
    """`accuracy` with its standard error, and `f1_macro`: the mean over the classes of each one's F1.

    Raises:
        InputError: fewer than two rows.
    """
    from sklearn.metrics import accuracy_score, f1_score

    _, se = estimate([float(p == y) for p, y in zip(predictions, labels, strict=True)])
    f1 = f1_score(labels, predictions, average="macro", zero_division=0.0)
    return {"accuracy": float(accuracy_score(labels, predictions)), "accuracy_se": se, "f1_macro": float(f1)}
