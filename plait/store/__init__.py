"""Histories on disk or in Redis: appended once, in order, and acknowledged when they are safe."""
