"""What a stock model needs besides itself: a value head, a reward head, log-probs without logits."""
