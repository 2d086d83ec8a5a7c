"""Database migrations, run from code so that an installed wheel can do it."""
