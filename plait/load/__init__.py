"""Load on a service: requests that come when they are due, and what became of them."""
