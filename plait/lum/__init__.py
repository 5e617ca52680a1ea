"""LUM: a large user model is trained, then queried for interests, which rankers take as features."""
