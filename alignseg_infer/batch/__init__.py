"""Segment very many images: worker processes, results in a folder or a bucket, and a manifest."""
