"""Inside a sandbox: `python3 forward.py PORT COMMAND...` lets programs that know no unix sockets reach the gateway.

It listens on the sandbox's own loopback, leaves a process behind that passes connections on to `/egress/socket`, and
becomes the command. Standard library only; a program may as well speak to the socket itself.
"""

import os
import signal
import socket
import sys

SOCKET = "/egress/socket"
BACKLOG = 128


def main() -> None:
    """Listen, leave the forwarder behind, and become the command."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=BACKLOG)
    if not os.fork():
        serve(listener)
    listener.close()
    # What Python ignores would stay ignored in the program.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execv("/bin/sh", ["/bin/sh", "-c", 'exec "$@"', "sandbox", *sys.argv[2:]])  # noqa: S606 - what the spec says


def serve(listener: socket.socket) -> None:
    """Forward until the sandbox ends; never returns."""
    try:
        os.setsid()
        # Whoever reads the program's output must not wait for this process.
        nothing = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        import asyncio

        asyncio.run(forward(listener))
    finally:
        os._exit(1)


async def forward(listener: socket.socket) -> None:
    """Join each connection to one of the gateway's."""
    import asyncio

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(SOCKET)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))
        for each in (writer, up_writer):
            each.close()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.close()

    server = await asyncio.start_server(one, sock=listener)
    await server.serve_forever()


if __name__ == "__main__":
    main()
