"""Datasets: image folders and lists, splits, decoding, augmented views and batches."""
