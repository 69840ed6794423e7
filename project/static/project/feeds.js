// The two ways to follow a run. A feed tells its listener what happens:
//   connecting(), live(), waiting(), event(id, name, data), gap(data), ended(status), refused(sentence)
// and asks it for listener.lastId, from where to go on.

const LONGEST_DELAY = 10_000;

class Feed {
  #failures = 0;
  #timer = null;

  constructor(run, listener) {
    this.run = run;
    this.listener = listener;
  }

  open() {
    this.listener.connecting();
    this.connect(this.listener.lastId);
  }

  close() {
    clearTimeout(this.#timer);
    this.disconnect();
  }

  live() {
    this.#failures = 0;
    this.listener.live();
  }

  end(status) {
    this.close();
    this.listener.ended(status);
  }

  refuse(sentence) {
    this.close();
    this.listener.refused(sentence);
  }

  retry() {
    const longest = Math.min(LONGEST_DELAY, 500 * 2 ** this.#failures);
    this.#failures += 1;
    this.listener.waiting();
    // A random delay, so that the clients of a server that was away don't all come back at once.
    this.#timer = setTimeout(() => this.open(), longest * (0.5 + Math.random() / 2));
  }
}

export class SseFeed extends Feed {
  #source = null;

  connect(lastId) {
    const source = new EventSource(withCursor(this.run.streamUrl, lastId));
    this.#source = source;
    source.addEventListener("open", () => this.live());
    for (const name of [...this.run.eventNames, "error"]) {
      // The run's own event of a name that is the browser's: see "Names of the stream" in README.md.
      source.addEventListener(name === "error" ? "__error" : name, (event) => {
        this.listener.event(event.lastEventId, name, JSON.parse(event.data));
      });
    }
    source.addEventListener("gap", (event) => this.listener.gap(JSON.parse(event.data)));
    source.addEventListener("end", (event) => this.end(JSON.parse(event.data).status));
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CONNECTING) {
        this.listener.waiting(); // the browser connects again, with Last-Event-ID
      } else {
        this.#closed(source);
      }
    });
  }

  disconnect() {
    this.#source?.close();
    this.#source = null;
  }

  // The browser gives up for good on every error, and doesn't say which it was.
  async #closed(source) {
    let answer;
    try {
      answer = await fetch(this.run.stateUrl);
      const state = await answer.json();
      if (this.#source !== source) {
        return; // dropped or opened anew meanwhile
      }
      if (answer.status >= 400 && answer.status < 500 && answer.status !== 429) {
        this.refuse(state.message);
        return;
      }
    } catch {
      if (this.#source !== source) {
        return;
      }
    }
    this.retry();
  }
}

export class WebSocketFeed extends Feed {
  #socket = null;

  connect(lastId) {
    const socket = new WebSocket(withCursor(this.run.socketUrl, lastId));
    let refusal = "";
    this.#socket = socket;
    socket.addEventListener("message", (message) => {
      if (this.#socket !== socket) {
        return; // frames of a socket that is closing already
      }
      const frame = JSON.parse(message.data);
      switch (frame.type) {
        case "subscribed":
          this.live();
          break;
        case "event":
          this.listener.event(frame.id, frame.event, frame.data);
          break;
        case "gap":
          this.listener.gap(frame);
          break;
        case "end":
          this.end(frame.status);
          break;
        case "error":
          refusal = frame.message;
          break;
      }
    });
    socket.addEventListener("close", ({ code }) => {
      if (this.#socket !== socket) {
        return;
      }
      // 4000 and the HTTP status: what trying again won't change.
      if (code >= 4400 && code < 4500 && code !== 4429) {
        this.refuse(refusal);
      } else {
        this.retry();
      }
    });
  }

  disconnect() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }
}

function withCursor(address, lastId) {
  const url = new URL(address, location.href);
  if (lastId) {
    url.searchParams.set("last_event_id", lastId);
  }
  return url;
}
