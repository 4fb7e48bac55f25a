"""A lean server in a process of its own: answers the endpoint as fast as it can, after `latency` seconds.

python -m benchmarks.server [LATENCY]     prints its port
"""

from __future__ import annotations

import asyncio
import sys

ROW = (
    b'{"leadId":"%s","workflowStatus":"pending","workflowInstanceId":"507f1f77bcf86cd799439011",'
    b'"latestStep":"email_1","workflowStopReason":null,"hasPendingApproval":false}'
)


class Answerer(asyncio.Protocol):
    """One connection."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport to write to."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self.heard += data
        while b"\r\n\r\n" in self.heard:
            head, _, self.heard = self.heard.partition(b"\r\n\r\n")
            lead_ids = head.split(b" ", 2)[1].partition(b"leadIds=")[2].replace(b"%2C", b",").split(b",")
            items = b",".join(ROW % lead_id for lead_id in lead_ids)
            body = b'{"success":true,"data":{"items":[%s]},"error":null,"traceId":"t"}' % items
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            asyncio.get_running_loop().call_later(
                self.latency, self.transport.write, answer % (len(body), body)
            )


async def main(latency: float) -> None:
    """Serve until the parent ends this process."""
    server = await asyncio.get_running_loop().create_server(lambda: Answerer(latency), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.0))
