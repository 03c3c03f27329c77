"""The HTTP service: it parses, calls the Vault, and renders. `server.serve` runs it, `app.create_app` makes the application."""
