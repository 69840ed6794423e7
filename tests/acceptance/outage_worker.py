"""
A worker that counts its errors: `python -m tests.acceptance.outage_worker HOW RUN PAUSE`.

It makes the run, publishes 1, 2, 3, … until its standard input ends, and prints for each that
raised a line of JSON: its number, and what the error says of it. The last line is how many there
were.
"""

import asyncio
import json
import sys

import django

django.setup()

from streambridge_app import get_bridge, get_sync_bridge  # noqa: E402 - the apps are ready now
from streambridge_app.exceptions import LogUnavailable  # noqa: E402


async def main(how: str, run_id: str, pause: float) -> None:
    bridge = get_bridge()
    await bridge.create_run(run_id, metadata={"demo": True})
    told = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    number = 0
    if how == "handle":
        async with bridge.producer(run_id) as run:
            while not told.done():
                number += 1
                await run.publish("number", number)
                await asyncio.sleep(pause)  # the pace of the work, not a wait for anything
    else:
        while not told.done():
            number += 1
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
    print(number)


if __name__ == "__main__":
    how, run_id, pause = sys.argv[1:]
    asyncio.run(main(how, run_id, float(pause)))
