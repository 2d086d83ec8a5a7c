"""REST `/api/v1`: what a program may see and do with a token; one module per noun."""
