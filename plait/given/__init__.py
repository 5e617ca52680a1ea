"""What a recommender is given, in the log's own ids and units, read and checked: histories, moments, vectors of
conditions, formulas, and which items may be answered."""
