"""One file for each side of a race: a small program that runs in its own environment and knows no other side."""
