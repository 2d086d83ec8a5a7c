"""The rows: tables, sessions and one module of functions per noun; each function takes a session."""
