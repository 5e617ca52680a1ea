"""Tables of counts: what is frequent, what follows what, and how items and users depart from the mean. Arrays in,
arrays out; nothing is trained."""
