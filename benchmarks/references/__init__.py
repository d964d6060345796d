"""Peers written for comparison: what people copy today, in its own plain form."""
