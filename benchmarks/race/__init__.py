"""Races: itda and its peers do the same work in turn, each in processes and an environment of its own."""
