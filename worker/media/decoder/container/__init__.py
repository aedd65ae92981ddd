"""The bytes of a media file: fetching them, its container, its clock and its packets."""
