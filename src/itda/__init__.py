"""itda: sequence-to-sequence models."""
