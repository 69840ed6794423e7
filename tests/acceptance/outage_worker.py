"""A worker that counts its errors: `python -m tests.acceptance.outage_worker HOW RUN EVENTS PAUSE`.

It makes the run, publishes 1, 2, 3, … and prints for each that raised a line of JSON: its number,
and what the error says of it.
"""

import asyncio
import json
import sys

import django

django.setup()

from streambridge_app import get_bridge, get_sync_bridge  # noqa: E402 - the apps are ready now
from streambridge_app.exceptions import LogUnavailable  # noqa: E402


async def main(how: str, run_id: str, events: int, pause: float) -> None:
    bridge = get_bridge()
    await bridge.create_run(run_id, metadata={"demo": True})
    if how == "handle":
        async with bridge.producer(run_id) as run:
            for number in range(1, events + 1):
                await run.publish("number", number)
                await asyncio.sleep(pause)  # the pace of the work, not a wait for anything
    else:
        for number in range(1, events + 1):
            try:
                if how == "sync":
                    await asyncio.to_thread(get_sync_bridge().publish, run_id, "number", number)
                else:
                    await bridge.publish(run_id, "number", number)
            except LogUnavailable as error:
                print(json.dumps([number, error.written]), flush=True)
            await asyncio.sleep(pause)
        await bridge.publish_end(run_id)
    await bridge.close()


if __name__ == "__main__":
    how, run_id, events, pause = sys.argv[1:]
    asyncio.run(main(how, run_id, int(events), float(pause)))
