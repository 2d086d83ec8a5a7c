"""HTTP: the Label Studio protocol, tile pictures and health."""
