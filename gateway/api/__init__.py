"""Request and answer types, their validation, and the OpenAPI document."""
