"""A model for programs that are not charlm."""
