"""Settings become objects: the schema, parsing, and the one place that turns names into objects."""
