"""What every room may use: errors, files, progress, versions."""
