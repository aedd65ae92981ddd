"""Keeping an RTSP session alive: which request does it depends on the camera."""

from worker.live.camera_description import CameraError, RequestRefused
from worker.live.rtsp.rtsp_conversation import Conversation

GONE = 454


class SessionKeepAlive:
    """GET_PARAMETER where the camera offers it or does not say what it offers, else OPTIONS.

    A camera that answers GET_PARAMETER with an error gets OPTIONS from then on, which some do not count; one
    that refuses both is left alone.
    """

    def __init__(self, public: str) -> None:
        offered = {name.strip().upper() for name in public.split(",")} - {""}
        self.methods = ["GET_PARAMETER", "OPTIONS"]
        if offered and "GET_PARAMETER" not in offered:
            self.methods = ["OPTIONS"]

    async def send(self, conversation: Conversation, url: str) -> None:
        """Renew the session. Raises CameraError if the camera has forgotten it, or has gone."""
        while self.methods:
            try:
                await conversation.ask(self.methods[0], url)
                return
            except RequestRefused as refused:
                if refused.status == GONE:
                    raise CameraError(f"the camera has ended the session: {refused}") from refused
                del self.methods[0]
