"""The interface of the notebooks that users have, a thin layer above the rooms; empty for now."""
