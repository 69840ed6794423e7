// Follows a stream with one of the clients that people use, and prints what it hears: a line of JSON per event.
// Nobody closes the client. The program ends when the client has stopped by itself.

import { createRequire } from "node:module";

const [client, address] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const alive = setInterval(() => {}, 1_000); // or Node.js ends before a client comes back

function say(id, event, data) {
  console.log(JSON.stringify({ id, event, data: JSON.parse(data) }));
}

function listen(source) {
  for (const name of ["step", "end"]) {
    source.addEventListener(name, (event) => say(event.lastEventId, name, event.data));
  }
  return new Promise((stopped) => {
    source.addEventListener("error", () => source.readyState === 2 && stopped());
  });
}

const clients = {
  async eventsource() {
    const { EventSource } = await import("eventsource");
    await listen(new EventSource(address));
  },

  async "eventsource-client"() {
    const { createEventSource } = await import("eventsource-client");
    await new Promise((stopped) => {
      const source = createEventSource({
        url: address,
        onMessage: ({ id, event, data }) => say(id, event, data),
        onDisconnect: () => queueMicrotask(() => source.readyState === "closed" && stopped()),
      });
    });
  },

  async "event-source-polyfill"() {
    const { EventSourcePolyfill } = require("event-source-polyfill");
    await listen(new EventSourcePolyfill(address));
  },

  async "fetch-event-source"() {
    globalThis.window = globalThis; // it is for browsers only
    globalThis.document = new EventTarget();
    const { fetchEventSource } = require("@microsoft/fetch-event-source");
    await fetchEventSource(address, {
      openWhenHidden: true,
      onmessage: ({ id, event, data }) => data && say(id, event, data),
    });
  },

  async "reconnecting-eventsource"() {
    const { EventSource } = await import("eventsource");
    const { default: Reconnecting } = await import("reconnecting-eventsource");
    await listen(new Reconnecting(address, { eventSourceClass: EventSource, max_retry_time: 100 }));
  },
};

await clients[client]();
clearInterval(alive);
process.exit();
