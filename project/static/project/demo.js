import { SseFeed, WebSocketFeed } from "./feeds.js";
import { Ledger } from "./ledger.js";

const ROWS = 500;
const RENDER_EVERY = 50;

const section = document.getElementById("run");
const run = {
  id: section.dataset.run,
  stateUrl: section.dataset.stateUrl,
  streamUrl: section.dataset.streamUrl,
  socketUrl: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/runs/${section.dataset.run
    .split("/")
    .map(encodeURIComponent)
    .join("/")}/`,
  eventNames: JSON.parse(document.getElementById("event-names").textContent),
};

// One of the two views of the run. It listens to its feed; the text on the page is written at most
// every RENDER_EVERY milliseconds, however fast the events come.
class Panel {
  #ledger = new Ledger();
  #rows = [];
  #latest = null;
  #total = null;
  #timer = null;

  constructor(element, Feed) {
    this.element = element;
    this.feed = new Feed(run, this);
    this.part("drop").addEventListener("click", () => this.drop());
    this.part("resume").addEventListener("click", () => this.feed.open());
  }

  part(name) {
    return this.element.querySelector(`[data-${name}]`);
  }

  get lastId() {
    return this.#ledger.lastId;
  }

  drop() {
    this.feed.close();
    this.#render(); // what came before belongs to what is shown as dropped
    this.#show("dropped", "dropped");
  }

  connecting() {
    this.#show("connecting", "connecting");
  }

  live() {
    this.#show("live", "live");
  }

  waiting() {
    this.#show("waiting", "connection lost, trying again");
  }

  refused(sentence) {
    this.#show("refused", sentence);
  }

  async ended(status) {
    this.#show("ended", `ended: ${status}`);
    runHasEnded(status);
    const answer = await fetch(run.stateUrl);
    if (answer.ok) {
      this.#total = (await answer.json()).head;
      this.#scheduleRender();
    }
  }

  event(id, name, data) {
    this.#ledger.accept(id);
    this.#latest = data;
    this.#addRow(id, name, data);
  }

  gap({ requested, earliest, latest }) {
    this.#addRow("", "gap", { requested, earliest, latest });
  }

  #show(state, text) {
    this.element.dataset.state = state;
    this.part("status").textContent = text;
    this.part("drop").disabled = !["connecting", "live", "waiting"].includes(state);
    this.part("resume").disabled = state !== "dropped";
  }

  #addRow(...columns) {
    this.#rows.push(columns);
    if (this.#rows.length > 2 * ROWS) {
      this.#rows = this.#rows.slice(-ROWS);
    }
    this.#scheduleRender();
  }

  #scheduleRender() {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#render();
    }, RENDER_EVERY);
  }

  #render() {
    const list = this.part("events");
    list.prepend(...this.#rows.slice(-ROWS).reverse().map(makeRow));
    this.#rows = [];
    while (list.childElementCount > ROWS) {
      list.lastElementChild.remove();
    }
    const { count, lastId } = this.#ledger;
    const verdict = this.#ledger.verdict(this.#total);
    this.part("count").textContent = count;
    this.part("last-id").textContent = lastId || "–";
    this.part("check").textContent = verdict.text;
    this.part("check").dataset.whole = verdict.whole && (this.#total === null ? "so far" : "yes");
    this.part("shown").textContent = count > ROWS ? `The newest ${ROWS} of ${count} are shown.` : "";
    const { n, total } = this.#latest ?? {};
    if (total) {
      this.part("progress").max = total;
      this.part("progress").value = n;
    }
  }
}

function makeRow([id, name, data]) {
  const row = document.createElement("li");
  // One line of JSON, with spaces at which it can wrap.
  const json = JSON.stringify(data, null, 1)
    .replace(/(?<=[[{])\n *|\n *(?=[\]}])/g, "")
    .replace(/\n */g, " ");
  for (const text of [id, name, json]) {
    const cell = document.createElement("span");
    cell.textContent = text;
    row.append(cell);
  }
  return row;
}

const cancel = section.querySelector("[data-cancel]");
const cancelAnswer = section.querySelector("[data-cancel-answer]");

function runHasEnded(status) {
  cancel.disabled = true;
  cancelAnswer.textContent = "";
  const badge = document.querySelector(`[data-badge="${CSS.escape(run.id)}"]`);
  if (badge) {
    badge.textContent = badge.dataset.value = status;
  }
}

cancel.addEventListener("click", async () => {
  cancel.disabled = true;
  const answer = await fetch(section.dataset.cancelUrl, {
    method: "POST",
    headers: { "X-CSRFToken": document.querySelector("[name=csrfmiddlewaretoken]").value },
  });
  cancelAnswer.textContent = answer.ok ? "The worker has been asked to stop." : (await answer.json()).message;
});
cancel.disabled = false;

for (const [kind, Feed] of Object.entries({ sse: SseFeed, websocket: WebSocketFeed })) {
  new Panel(document.querySelector(`[data-panel=${kind}]`), Feed).feed.open();
}
