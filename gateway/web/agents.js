/** The list of agents on the left, newest first: read in pages, then kept live by one subscription to all. */

import { CommitcastError } from "./client.js";
import { byId, link, make, number, showStatus, time } from "./elements.js";

/** @typedef {import("./client.js").AgentRecord} AgentRecord */
/** @typedef {{element: HTMLElement, anchor: HTMLElement, status: HTMLElement, head: HTMLElement}} Row */

/** Rows that are shown at first, and more each time. */
const ROWS = 100;
/** Agents that are remembered; those of long ago are read again if somebody asks for them. */
const MOST_AGENTS = 5_000;
/** Between drawings: heads may move thousands of times a second. */
const DRAW_MS = 150;
/** Between readings, where all agents may not be subscribed to. */
const POLL_MS = 3_000;
const ORDER = ["initializing", "running", "completed", "failed", "terminated"];

export class Agents {
  /** Whether the first page has come. */
  isRead = false;
  #agents = /** @type {Map<string, AgentRecord>} */ (new Map());
  #newestFirst = /** @type {AgentRecord[]} */ ([]);
  #rows = /** @type {Map<string, Row>} */ (new Map());
  #shown = ROWS;
  #next = /** @type {number | string | null} */ (null);
  #selected = /** @type {string | null} */ (null);
  #drawing = /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined);
  #list = byId("agents");
  #text = byId("filter-text");
  #status = byId("filter-status");
  #reads;
  #hooks;

  /**
   * @param {import("./reads.js").Reads} reads
   * @param {{onHead(agent: string, head: number): void, onChange(): void}} hooks
   */
  constructor(reads, hooks) {
    this.#reads = reads;
    this.#hooks = hooks;
    this.#text.addEventListener("input", () => this.#draw());
    this.#status.addEventListener("change", () => this.read());
    byId("filters").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
    byId("older").addEventListener("click", () => this.#readOlder());
    this.#list.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#onKey(event));
  }

  get count() {
    return this.#agents.size;
  }

  get newest() {
    return this.#newestFirst[0]?.id ?? null;
  }

  /** @param {string | null} agent */
  select(agent) {
    this.#selected = agent;
    this.#draw();
  }

  /** Read the newest page. */
  async read() {
    const { agents, next } = await this.#reads.agents({ status: this.#status.value });
    this.#next = next;
    this.isRead = true;
    this.#merge(agents);
    this.#draw();
    this.#hooks.onChange();
  }

  async #readOlder() {
    this.#shown += ROWS;
    if (this.#next !== null && this.#matching.length < this.#shown) {
      const { agents, next } = await this.#reads.agents({ status: this.#status.value, after: this.#next });
      this.#next = next;
      this.#merge(agents);
    }
    this.#draw();
  }

  /** Keep the list live; without the right to hear of all agents, read it again and again.
   * @param {import("./client.js").Client} client @returns {Promise<void>} */
  async follow(client) {
    try {
      const all = client.subscribe("*", { after: "tail", slow: "skip", onEvent: (event) => this.#onEvent(event) });
      for await (const { agent, sequence } of all) this.#reach(agent, sequence);
    } catch (error) {
      const code = error instanceof CommitcastError ? error.code : "";
      if (code === "ahead" || code === "stale_epoch") return this.follow(client); // the store was replaced
      if (client.state.name === "closed") return;
      const poll = () => this.read().catch(() => {}).finally(() => setTimeout(poll, POLL_MS));
      poll();
    }
  }

  /** @param {import("./client.js").StreamEvent} event */
  #onEvent(event) {
    if (event.type === "subscribed" || event.type === "gap") {
      this.read().catch(() => {});
    } else if (event.type === "status") {
      const { status, error, result } = event;
      const known = this.#agents.get(event.agent);
      if (known) Object.assign(known, { status, error, result });
      this.#reach(event.agent, event.sequence);
    } else if (event.type === "agent" && event.event === "deleted") {
      this.#agents.delete(event.agent);
      this.#sort();
    } else if (event.type === "agent" && event.record) {
      this.#merge([event.record]);
    }
    this.#drawSoon();
  }

  /** @param {string} agent @param {number} head */
  #reach(agent, head) {
    const known = this.#agents.get(agent);
    if (known) known.head = Math.max(known.head, head);
    this.#hooks.onHead(agent, head);
    this.#drawSoon();
  }

  /** @param {AgentRecord[]} records */
  #merge(records) {
    const isFirst = this.#agents.size === 0;
    for (const record of records) {
      const known = this.#agents.get(record.id);
      if (known?.epoch !== record.epoch) {
        this.#agents.set(record.id, record);
      } else {
        const status = ORDER.indexOf(record.status) > ORDER.indexOf(known.status) ? record.status : known.status;
        Object.assign(known, record, { head: Math.max(known.head, record.head), status });
      }
    }
    this.#sort();
    if (isFirst) this.#hooks.onChange();
  }

  #sort() {
    this.#newestFirst = [...this.#agents.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
    for (const { id } of this.#newestFirst.splice(MOST_AGENTS)) this.#agents.delete(id);
  }

  get #matching() {
    const words = this.#text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = this.#status.value;
    return this.#newestFirst.filter((agent) => {
      if (status && agent.status !== status) return false;
      const text = `${agent.id} ${agent.type} ${agent.prompt} ${agent.error?.message ?? ""}`.toLowerCase();
      return words.every((/** @type {string} */ word) => text.includes(word));
    });
  }

  #drawSoon() {
    this.#drawing ??= setTimeout(() => this.#draw(), DRAW_MS);
  }

  #draw() {
    clearTimeout(this.#drawing);
    this.#drawing = undefined;
    const matching = this.#matching;
    const shown = matching.slice(0, this.#shown);
    const ids = new Set(shown.map(({ id }) => id));
    for (const [id, { element }] of this.#rows) {
      if (ids.has(id)) continue;
      element.remove();
      this.#rows.delete(id);
    }
    shown.forEach((agent, place) => {
      const { element } = this.#row(agent);
      if (this.#list.children[place] !== element) this.#list.insertBefore(element, this.#list.children[place] ?? null);
    });
    this.#makeReachable();
    byId("none").hidden = shown.length > 0 || this.#agents.size === 0;
    byId("older").hidden = matching.length <= shown.length && this.#next === null;
  }

  /** Return the agent's row, as it is now. @param {AgentRecord} agent @returns {Row} */
  #row(agent) {
    let row = this.#rows.get(agent.id);
    if (!row) {
      const [status, head] = [make("span", { class: "status" }), make("span", { class: "head" })];
      const name = make("span", { class: "id" }, agent.id);
      const about = [agent.type, time(agent.created_at)].join(" · ");
      const anchor = make("a", { href: link(agent.id), tabindex: "-1" }, name, head, status, make("small", {}, about));
      if (agent.prompt) anchor.append(make("span", { class: "prompt" }, agent.prompt.slice(0, 200)));
      row = { element: make("li", {}, anchor), anchor, status, head };
      this.#rows.set(agent.id, row);
    }
    showStatus(row.status, agent.status);
    const head = number(agent.head);
    if (row.head.textContent !== head) row.head.textContent = head;
    row.head.title = `${head} messages`;
    if (agent.id === this.#selected) row.anchor.setAttribute("aria-current", "true");
    else row.anchor.removeAttribute("aria-current");
    return row;
  }

  /** One row takes part in the order of tabs; arrows go to the others. */
  #makeReachable() {
    const anchors = [...this.#list.querySelectorAll("a")];
    const reachable =
      anchors.find((anchor) => anchor === document.activeElement) ??
      anchors.find((anchor) => anchor.hasAttribute("aria-current")) ?? anchors[0];
    for (const anchor of anchors) anchor.tabIndex = anchor === reachable ? 0 : -1;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const anchors = [...this.#list.querySelectorAll("a")];
    const place = anchors.indexOf(/** @type {any} */ (document.activeElement));
    const last = anchors.length - 1;
    const to = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: last }[event.key];
    if (to === undefined || place < 0) return;
    event.preventDefault();
    anchors[Math.min(last, Math.max(0, to))].focus();
    this.#makeReachable();
  }
}
