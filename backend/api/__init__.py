"""HTTP: the Label Studio protocol, REST, tile pictures and health."""
