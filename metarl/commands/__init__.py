"""The commands of ``metarl``."""
