"""RTP: packets put back in order and together to pictures, and what RTCP says of them."""
