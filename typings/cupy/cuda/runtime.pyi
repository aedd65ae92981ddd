class CUDARuntimeError(RuntimeError):
    status: int

def getDeviceCount() -> int: ...
