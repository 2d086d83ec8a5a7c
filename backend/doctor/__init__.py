"""`mpamatch doctor`: every link of an installation looked at, nothing changed; one module per side of it."""
