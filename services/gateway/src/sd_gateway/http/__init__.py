"""The REST API: operations, and how errors and documents of it are told."""
