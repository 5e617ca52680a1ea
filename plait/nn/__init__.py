"""Attention, positions, trunks, encoders, heads, losses: tensors in, tensors out."""
