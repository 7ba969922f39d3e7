"""Writes files for other runtimes. Each file is run on images and compared with its checkpoint before it is kept."""
