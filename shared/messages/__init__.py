"""Generated protobuf code. The schemas are in `proto/`; `scripts/proto` writes this folder."""
