/** One agent on the right: its record, its messages, how far it has caught up, and its end. */

import { CommitcastError } from "./client.js";
import { byId, make, many, number, showStatus, time } from "./elements.js";
import { Messages } from "./messages.js";
import { ReadError } from "./reads.js";

/** @typedef {import("./client.js").AgentRecord} AgentRecord */

const TERMINAL = new Set(["completed", "failed", "terminated"]);
/** Announced blocks that are kept for those who listen. */
const SPOKEN = 4;
const SPOKEN_CHARACTERS = 600;
/** Whether everything is shown, kept for this tab. */
const EVERYTHING = "commitcast.everything";

export class Stream {
  agent = /** @type {string | null} */ (null);
  /** Nothing more will come. */
  isOver = false;
  isLive = false;
  #record = /** @type {AgentRecord | null} */ (null);
  #subscription = /** @type {import("./client.js").Subscription | null} */ (null);
  /** Of the resuming that is under way: after what, and what has come since. */
  #resume = /** @type {{after: number, count: number, missing: number} | null} */ (null);
  #last = 0;
  #client;
  #reads;
  #hooks;
  #messages;

  /**
   * @param {import("./client.js").Client} client
   * @param {import("./reads.js").Reads} reads
   * @param {{onChange(): void, onMove(at: number | null): void, onNotice(text: string): void}} hooks
   */
  constructor(client, reads, hooks) {
    this.#client = client;
    this.#reads = reads;
    this.#hooks = hooks;
    this.#messages = new Messages(reads, {
      onMove: hooks.onMove,
      onSaid: (text) => this.#speak(text),
      onError: (error) => this.#notice(`Could not read: ${error.message}`),
    });
    byId("everything").addEventListener("click", () => this.#showEverything(byId("everything").ariaPressed !== "true"));
    this.#showEverything(sessionStorage.getItem(EVERYTHING) === "true");
  }

  /** Show also what is said again and what only keeps the books of a stream. @param {boolean} all */
  #showEverything(all) {
    sessionStorage.setItem(EVERYTHING, String(all));
    byId("everything").ariaPressed = String(all);
    this.#messages.showAll(all);
  }

  /** What is received and what there is, while it catches up; else null. */
  get catchingUp() {
    const { cursor, head } = this.#subscription ?? { cursor: 0, head: 0 };
    return this.isLive || this.isOver || head <= cursor ? null : { cursor, head };
  }

  /** Show an agent, at a sequence or at its tail. @param {string} agent @param {number | null} at */
  async open(agent, at) {
    const isOther = agent !== this.agent;
    if (isOther) this.close();
    this.agent = agent;
    try {
      if (isOther) {
        byId("stream-id").textContent = agent;
        byId("stream").setAttribute("aria-busy", "true");
        this.#show(await this.#reads.agent(agent));
      }
      if (this.agent !== agent || !this.#record) return;
      const page = await this.#messages.open(agent, Math.max(this.#record.head, this.#messages.head), at);
      if (page && this.agent === agent && !this.#subscription) {
        this.#follow(agent, page.epoch, at === null ? page.next : page.head);
      }
    } catch (error) {
      const isMissing = error instanceof ReadError && error.status === 404;
      const why = isMissing ? `There is no agent ${agent}.` : `Could not read: ${message(error)}`;
      if (this.agent === agent) this.#notice(why);
      this.#settle();
    }
    this.#hooks.onChange();
  }

  /** Show nothing. */
  close() {
    this.#subscription?.close();
    this.#subscription = this.#record = this.#resume = this.agent = null;
    this.isOver = this.isLive = false;
    this.#messages.close();
    this.#notice("");
    showStatus(byId("stream-status"), "initializing");
    for (const id of ["stream-facts", "spoken", "ending"]) byId(id).replaceChildren();
    byId("ending").hidden = true;
  }

  /** The list has heard how far the agent is: after its end there is no stream to tell. @param {number} head */
  reach(head) {
    if (!this.isOver || head <= this.#messages.head) return;
    this.#messages.head = head;
    this.#messages.draw();
  }

  /** @param {string} agent @param {string} epoch @param {number} after */
  async #follow(agent, epoch, after) {
    const onEvent = (/** @type {import("./client.js").StreamEvent} */ event) => this.#onEvent(event);
    const subscription = this.#client.subscribe(agent, { after, epoch, onEvent });
    this.#subscription = subscription;
    this.#last = after;
    try {
      for await (const message of subscription) {
        if (this.#resume) {
          this.#resume.count++;
          this.#resume.missing += Math.abs(message.sequence - this.#last - 1);
        }
        this.#last = message.sequence;
        this.#messages.add(message);
        if (!this.isLive) this.#hooks.onChange();
      }
      if (subscription === this.#subscription) this.#end();
    } catch (error) {
      if (subscription === this.#subscription) await this.#onRefused(agent, error);
    }
  }

  /** @param {import("./client.js").StreamEvent} event */
  #onEvent(event) {
    if (event.type === "subscribed") {
      this.isLive = false;
      if (this.#subscription?.resumes) this.#resume = { after: event.after, count: 0, missing: 0 };
      if (event.record) this.#show(event.record);
    } else if (event.type === "live") {
      this.isLive = true;
      this.#settle();
      this.#tellResumed();
    } else if (event.type === "status" && this.#record) {
      const { status, error, result, at } = event;
      const end = TERMINAL.has(status) ? { completed_at: at, error, result } : { started_at: at };
      this.#show({ ...this.#record, status, ...end, head: Math.max(event.sequence, this.#record.head) });
    } else if (event.type === "error") {
      this.#notice(`A message was refused: ${event.message}`);
    }
    this.#hooks.onChange();
  }

  #end() {
    this.isOver = true;
    this.#settle();
    this.#tellResumed();
    this.#hooks.onChange();
  }

  /** From here on the page is as live as it gets. */
  #settle() {
    byId("stream").removeAttribute("aria-busy");
  }

  #tellResumed() {
    if (!this.#resume) return;
    const { after, count, missing } = this.#resume;
    this.#resume = null;
    const sound = missing === 0 ? "nothing missing" : `${many(missing, "message")} missing`;
    this.#notice(`Resumed after ${number(after)}: ${many(count, "message")} caught up, ${sound}.`);
  }

  /** @param {string} agent @param {unknown} error */
  async #onRefused(agent, error) {
    const code = error instanceof CommitcastError ? error.code : "";
    this.isOver = true;
    this.#settle();
    if (code === "stale_epoch" || code === "ahead") {
      this.close();
      await this.open(agent, null);
      this.#notice("The store was replaced. This is now the agent with that id.");
    } else {
      this.#notice(code === "gone" ? "This agent was deleted." : `The stream ended: ${message(error)}`);
    }
    this.#hooks.onChange();
  }

  /** @param {AgentRecord} record */
  #show(record) {
    this.#record = record;
    showStatus(byId("stream-status"), record.status);
    const facts = [record.type, `created ${time(record.created_at)}`];
    byId("stream-facts").replaceChildren(facts.join(" · "));
    byId("stream-facts").title = record.prompt;
    this.#showEnding(record);
  }

  /** @param {AgentRecord} record */
  #showEnding({ status, completed_at, error, result }) {
    const ending = byId("ending");
    ending.hidden = !TERMINAL.has(status);
    if (ending.hidden) return;
    const word = make("span", { class: "status" });
    showStatus(word, status);
    ending.replaceChildren(word, completed_at ? ` at ${time(completed_at)}` : "");
    if (error) ending.append(make("p", { class: "error" }, [error.name, error.message].filter(Boolean).join(": ")));
    if (result !== undefined && result !== null) {
      ending.append(make("pre", {}, typeof result === "string" ? result : JSON.stringify(result, null, 2)));
    }
  }

  /** @param {string} text */
  #notice(text) {
    byId("notice").textContent = text;
    byId("notice").hidden = text === "";
    if (text) this.#hooks.onNotice(text);
  }

  /** @param {string} text */
  #speak(text) {
    const spoken = byId("spoken");
    spoken.append(make("p", {}, text.slice(0, SPOKEN_CHARACTERS)));
    while (spoken.childElementCount > SPOKEN) spoken.firstElementChild.remove();
  }
}

/** @param {unknown} error */
const message = (error) => (error instanceof Error ? error.message : String(error));
