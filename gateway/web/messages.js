/**
 * The list of one agent's messages: a window over them all, which follows the tail or stays where the reader is.
 *
 * Owns what is in the document: a few dozen blocks near what is seen, however many messages there are. Earlier and
 * later ones are read as the reader comes near them, and those far away are dropped.
 */

import { Block } from "./blocks.js";
import { byId, many, number } from "./elements.js";

/** @typedef {import("./client.js").Message} Message */

const PAGE = 200;
/** Blocks that are kept wherever they are; beyond them only those near what is seen. */
const BLOCKS = 48;
/** As far from an edge more is read, and twice as far away it is dropped. In pixels. */
const NEAR = 1200;
/** So near to the end the reader is taken to be at it. In pixels. */
const AT_END = 48;
/** Messages that may wait for the next frame; a page that is hidden draws none. */
const PENDING = 2_000;

export class Messages {
  /** Whether the reader is at the end, and stays there. */
  sticks = true;
  /** The last sequence that is known to exist. */
  head = 0;
  #agent = "";
  #first = 1;
  #last = 0;
  #blocks = /** @type {Block[]} */ ([]);
  #pending = /** @type {Message[]} */ ([]);
  #isDrawing = false;
  #isFilling = false;
  /** Counts openings: what was read for an earlier one is dropped. */
  #turn = 0;
  #isPlacing = false;
  #log = byId("log");
  #list = byId("blocks");
  #latest = byId("latest");
  #reads;
  #hooks;

  /**
   * @param {import("./reads.js").Reads} reads
   * @param {{onMove(at: number | null): void, onSaid(text: string): void, onError(error: Error): void}} hooks
   */
  constructor(reads, hooks) {
    this.#reads = reads;
    this.#hooks = hooks;
    this.#log.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.#latest.addEventListener("click", () => this.toLatest());
    new ResizeObserver(() => this.sticks && this.#toEnd()).observe(this.#log);
  }

  /** The last sequence that is in the list, or about to be. */
  get #end() {
    return this.#pending.at(-1)?.sequence ?? this.#last;
  }

  /** Show an agent at a sequence, or at its tail. @param {string} agent @param {number} head @param {number | null} at */
  async open(agent, head, at) {
    const turn = ++this.#turn;
    const after = at === null ? Math.max(0, head - PAGE) : Math.max(0, Math.min(at, head) - 1 - PAGE / 2);
    const page = await this.#reads.messages(agent, after, PAGE);
    if (turn !== this.#turn) return null;
    this.#agent = agent;
    this.head = page.head;
    this.#reset(page.items, after);
    this.sticks = at === null;
    this.#isPlacing = true;
    if (at === null) this.#toEnd();
    else this.#show(at);
    this.#tellEnds();
    await this.#fill();
    return page;
  }

  /** Show nothing, and drop what is being read. */
  close() {
    this.#turn++;
    this.head = 0;
    this.#reset([], 0);
  }

  /** Go to the newest message. */
  async toLatest() {
    this.#hooks.onMove(null);
    const { agent, head } = { agent: this.#agent, head: this.head };
    await this.open(agent, head, null).catch(this.#hooks.onError);
    this.#log.focus({ preventScroll: true });
  }

  /** Take a new message. @param {Message} message */
  add(message) {
    const isNext = message.sequence === this.#end + 1;
    this.head = Math.max(this.head, message.sequence);
    if (isNext && (this.sticks || this.#below < 2 * NEAR)) this.#pending.push(message);
    if (this.#pending.length > PENDING) this.#pending.splice(0, PENDING / 2);
    this.draw();
  }

  /** Draw before the next frame what has come. */
  draw() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => {
      this.#isDrawing = false;
      this.#draw();
    });
  }

  #draw() {
    const pending = this.#pending;
    this.#pending = [];
    if (pending.length > 0) {
      const isNext = pending[0].sequence === this.#last + 1;
      if (isNext && pending.length <= PENDING / 2) this.#append(pending, true);
      else if (this.sticks) this.#reset(pending.slice(-PAGE), pending[Math.max(0, pending.length - PAGE)].sequence - 1);
      else if (isNext) this.#append(pending.slice(0, PENDING / 2), false);
    }
    if (this.sticks) this.#toEnd();
    this.#trim();
    this.#tellEnds();
    if (this.#end < this.head || this.#log.scrollTop < NEAR) this.#fill();
  }

  /** @param {Message[]} messages @param {number} after */
  #reset(messages, after) {
    this.#blocks = [];
    this.#pending = [];
    this.#list.replaceChildren();
    this.#first = after + 1;
    this.#last = after;
    this.#append(messages, false);
  }

  /** @param {Message[]} messages @param {boolean} isNew */
  #append(messages, isNew) {
    const made = this.#build(messages, this.#blocks.at(-1));
    if (isNew && made.length > 0 && this.sticks) this.#say();
    this.#list.append(...made.map((block) => block.element));
    this.#blocks.push(...made);
    if (isNew && this.sticks) this.#sayLater();
  }

  /** Make blocks of messages, the first of which may go into a block that is there. @param {Message[]} messages
   * @param {Block | undefined} into */
  #build(messages, into) {
    const made = /** @type {Block[]} */ ([]);
    let joined = /** @type {Message[]} */ ([]);
    let block = into;
    for (const message of messages) {
      if (joined.length === 64) joined = block?.add(joined) ?? []; // so that a block knows when it is full
      if (block?.takes(message) && message.sequence === block.last + joined.length + 1) {
        joined.push(message);
      } else if (joined.length > 0 && block && (block.add(joined), (joined = []), block.takes(message))) {
        joined.push(message);
      } else {
        block = new Block(message, block, this.#agent, this.#reads);
        made.push(block);
      }
      this.#last = Math.max(this.#last, message.sequence);
    }
    if (joined.length > 0) block?.add(joined);
    return made;
  }
}
