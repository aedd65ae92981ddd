"""RTSP through HTTP, for cameras behind proxies and firewalls that let nothing else through.

Apple's scheme, which most cameras know: the answer to a GET never ends and carries what the camera sends; a
POST that never ends carries what is sent to the camera, in Base64. A cookie ties the two together.
"""

import re
import secrets
from collections.abc import Callable

from shared.addresses import CameraAddress
from worker.live.camera_description import CameraError, CameraOptions, shown
from worker.live.rtsp.camera_sockets import CameraSockets
from worker.live.rtsp.rtsp_connection import Connection
from worker.live.rtsp.rtsp_conversation import connect
from worker.live.rtsp.rtsp_login import RtspLogin

TYPE = "application/x-rtsp-tunnelled"
POSTED = 32_767
"""The length that a POST claims to have, as clients since QuickTime have done."""
_PATH = re.compile(r"[a-z]+://[^/?#]*(.*)", re.IGNORECASE)
_HAS_PORT = re.compile(r"[a-z]+://(?:\[[^\]]*\]|[^/?#:\[]*):[0-9]", re.IGNORECASE)


async def open_tunnel(
    where: CameraAddress, options: CameraOptions, sockets: CameraSockets, make: Callable[[], Connection]
) -> Connection:
    """Connect to a camera through HTTP: at the port of its address, or else at 80, with TLS at 443. Raises
    CameraError."""
    if not _HAS_PORT.match(where.url):
        where = where._replace(port=443 if where.secure else 80)
    found = _PATH.match(where.url)
    path = (found[1] if found else "") or "/"
    login = RtspLogin(where.username, where.password)
    common = {"Host": where.host, "x-sessioncookie": secrets.token_hex(11)}
    common |= {"Pragma": "no-cache", "Cache-Control": "no-cache"}
    taking = await connect(where, options, sockets, make)
    reply = await taking.request_http("GET", path, {**common, "Accept": TYPE})
    if reply.status == 401:
        taking.close()
        login.learn(reply)
        taking = await connect(where, options, sockets, make)
        headers = {**common, "Accept": TYPE, **login.headers("GET", path)}
        reply = await taking.request_http("GET", path, headers)
    if reply.status != 200:
        taking.close()
        raise CameraError(f"the camera answers HTTP GET {shown(path)} with {reply.status} {reply.reason}")
    sending = await connect(where, options, sockets, _ignoring)
    headers = {**common, "Content-Type": TYPE, "Content-Length": str(POSTED), **login.headers("POST", path)}
    sending.send_http("POST", path, headers)
    taking.send_through(sending)
    return taking


def _ignoring() -> Connection:
    """Return a connection whose media and requests are ignored: a POST is not answered."""
    return Connection(lambda channel, data: None, lambda method, headers: None)
