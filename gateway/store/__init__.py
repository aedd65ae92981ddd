"""Bytes kept: asset records, the folder or bucket, the storage quota."""
