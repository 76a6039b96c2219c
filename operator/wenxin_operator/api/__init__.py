"""The custom resources as pydantic models: the one source of the schema in crds/ and of what the operator accepts."""
