"""The base of all other packages: errors, files, JSON, progress, versions."""
