"""From folders and lists of images to seeded splits, decoded stores, augmented views and batches."""
