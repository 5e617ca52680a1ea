"""From tables to a prepared folder: rows in, checked and coded; sorted, filtered, split; written."""
