"""What a column means: ids, times, actions and features, what is missing in them, and which rules a row must keep."""
