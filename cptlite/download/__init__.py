"""Datasets from where torchvision knows them to be, whole or not at all, in the folders that are read here."""
