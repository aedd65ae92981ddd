"""Live cameras: from RTSP to chunks, each camera a session under a lease."""
