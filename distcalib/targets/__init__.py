"""Target databases, choosing targets, and the bundled table of official statistics."""
