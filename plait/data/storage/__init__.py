"""Folders on disk: whole or not at all, made by one process at a time, kept between calls."""
