"""RTP: packets reordered and assembled into pictures, and RTCP."""
