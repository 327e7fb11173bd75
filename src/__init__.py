"""Curator: inference-time search for text-to-music generation."""
