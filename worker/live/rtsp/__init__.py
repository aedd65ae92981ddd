"""The RTSP client."""
