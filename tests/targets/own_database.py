"""A user's database, changed by hand."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine, text


def change(path: Path, *statements: str) -> None:
    """Run SQL on a database file without its triggers: a user's has no guard against what follows."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as db:
        for name in db.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all():
            db.execute(text(f"DROP TRIGGER {name}"))
        for statement in statements:
            db.execute(text(statement))
    engine.dispose()
