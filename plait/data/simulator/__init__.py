"""Worlds with known truth: logs drawn from them, and the best that anyone could predict."""

from plait.data.simulator.oracle import Knows, Oracle, oracle
from plait.data.simulator.responses import Response
from plait.data.simulator.simulating import simulate
from plait.data.simulator.visits import Visitors
from plait.data.simulator.world import World

__all__ = ["Knows", "Oracle", "Response", "Visitors", "World", "oracle", "simulate"]
