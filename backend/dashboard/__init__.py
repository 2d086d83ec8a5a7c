"""The dashboard: pages rendered on the server, one stylesheet, nothing from elsewhere."""
