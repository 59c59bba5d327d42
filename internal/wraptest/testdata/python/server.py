"""An echo on Python's websockets for internal/wraptest. It prints its port."""

import asyncio
import os
import sys
import threading

try:  # version 13 and later
    from websockets.asyncio.server import serve
except ImportError:
    from websockets import serve

SUBPROTOCOL = "echo.v1"
HEADERS = [("X-Served-By", "wraptest"), ("Set-Cookie", "seen=1; Path=/; HttpOnly")]


def pushed(i, size):
    return f"push {i} ".ljust(size, ".")


async def push(ws, n, size):
    for i in range(n):
        await ws.send(pushed(i, size))
        await asyncio.sleep(0)


async def echo(ws, path=None):
    tasks = set()
    async for message in ws:
        words = message.split(" ") if isinstance(message, str) else [""]
        if words[0] == "/push":
            await push(ws, int(words[1]), int(words[2]))
        elif words[0] == "/both":
            tasks.add(asyncio.create_task(push(ws, int(words[1]), 0)))
        elif words[0] == "/close":
            await ws.close(int(words[1]), words[2])
        else:
            await ws.send(message)


def select(offered):
    return SUBPROTOCOL if SUBPROTOCOL in offered else None


def options():
    if serve.__module__.startswith("websockets.asyncio"):

        def process_response(connection, request, response):
            for name, value in HEADERS:
                response.headers[name] = value

        return {
            "process_response": process_response,
            "select_subprotocol": lambda connection, offered: select(offered),
        }
    return {
        "extra_headers": HEADERS,
        "select_subprotocol": lambda offered, available: select(offered),
        "subprotocols": [SUBPROTOCOL],
    }


async def main():
    server = await serve(echo, "127.0.0.1", 0, **options())
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Future()


def until_end_of_input():
    """Whoever started this process holds its standard input open."""
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=until_end_of_input, daemon=True).start()
asyncio.run(main())
