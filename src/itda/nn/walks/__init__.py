"""Decoders under way in a search that owns their state: the fast twins of `Decoder.step`."""
