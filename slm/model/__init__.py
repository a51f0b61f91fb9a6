"""The language model: backbone, stream embeddings and heads, aligned log-probabilities."""
