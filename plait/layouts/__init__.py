"""Layouts: what an event becomes. Notation, audit, catalogue, arrangement into tokens, packing, cost."""

from plait.layouts.audit import Audit, audit
from plait.layouts.catalogue import CATALOGUE, name_of, resolve
from plait.layouts.notation import Layout

__all__ = ["CATALOGUE", "Audit", "Layout", "audit", "name_of", "resolve"]
