"""From tables to a prepared folder. `pipeline` has the steps, `prepare`; in order:

1. `checks`: do the settings go together?
2. `ingestion`: rows are read, held against the rules, and coded (`coding`).
3. `kept_rows`: they are sorted, and filtered by duplicates and k-core (`sequences`).
4. `numbering`: users, items and requests get numbers.
5. `splits`: events are for training, validation or test.
6. `events`: all of this in one, with actions and features fitted on training.
7. `prepared_folder`: arrays, tables and the manifest are written.
"""
