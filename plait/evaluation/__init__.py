"""What a trained model is worth on held-out events, and the line of everything that comparable results share."""
