"""Sends a message to the WebSocket endpoint of each argument, and prints the close code that it reads.

aiohttp gives up what it is sending, and its answer to a close frame, as soon as it reads the end of the stream.
"""

import asyncio
import ssl
import sys

import aiohttp


async def code(session, url, size):
    trust = ssl.create_default_context()
    trust.check_hostname = False
    trust.verify_mode = ssl.CERT_NONE
    async with session.ws_connect(url, ssl=trust if url.startswith("wss:") else None, origin=sys.argv[1]) as ws:
        await ws.send_str("x" * size)
        while (await ws.receive(timeout=30)).type is aiohttp.WSMsgType.TEXT:
            pass
        return int(ws.close_code)


async def main():
    async with aiohttp.ClientSession() as session:
        for url in sys.argv[3:]:
            print(await code(session, url, int(sys.argv[2])))


asyncio.run(main())
