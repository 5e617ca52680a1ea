"""A trained model over HTTP: events in, answers out, each before its deadline."""
