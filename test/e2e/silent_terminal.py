"""Runs the gateway in a terminal that stops reading. Prints its exit code; None: it did not end in time."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

FIRST_SCREEN_BYTES = 2000
STOP_S_MAX = 12.0


def main() -> None:
    """Reads the first screen, then nothing more, while the log in stderr's file grows."""
    terminal, gateway_side = pty.openpty()
    fcntl.ioctl(gateway_side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with Path(sys.argv[1]).open("wb") as log:
        gateway = subprocess.Popen(
            sys.argv[2:], stdin=gateway_side, stdout=gateway_side, stderr=log, start_new_session=True
        )
    os.close(gateway_side)
    seen = 0
    while seen < FIRST_SCREEN_BYTES:
        seen += len(os.read(terminal, 65536))
    # Each resize makes the dashboard draw everything, until the terminal takes no more.
    for width in range(60):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100 + width, 0, 0))
        gateway.send_signal(signal.SIGWINCH)
        time.sleep(0.1)
    gateway.send_signal(signal.SIGTERM)
    try:
        code = gateway.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        code = None
        gateway.kill()
    print(code)


main()
