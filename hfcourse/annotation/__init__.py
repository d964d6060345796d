"""Who prefers what: simulated people, language models, reward models, ratings, a person at the terminal."""
