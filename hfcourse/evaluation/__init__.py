"""What a model can do: completions, rewards, KL, choices, perplexity; each number with its standard error."""
