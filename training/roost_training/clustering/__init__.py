"""Clusters of an exported model's embeddings."""
