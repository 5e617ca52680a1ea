"""Plait: generative recommendation where the item/action layout is one line of data."""
