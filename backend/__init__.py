"""All state and all HTTP; never torch."""
