/**
 * The list of one agent's messages: a window over them all, which follows the tail or stays where the reader is.
 *
 * Owns what is in the document: a few dozen blocks near what is seen, however many messages there are. Earlier and
 * later ones are read as the reader comes near them, and those far away are dropped.
 */

import { Block } from "./blocks.js";
import { byId, many, number } from "./elements.js";
import { isHidden, isKnown } from "./texts.js";

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
/** A block that has not grown for so long is read out to those who listen. */
const SILENCE_MS = 1_500;

export class Messages {
  /** Whether the reader is at the end, and stays there. */
  sticks = true;
  /** The last sequence that is known to exist. */
  head = 0;
  /** Whether repeats and bookkeeping are shown, too. */
  #showsAll = false;
  #agent = "";
  #first = 1;
  #last = 0;
  #blocks = /** @type {Block[]} */ ([]);
  #pending = /** @type {Message[]} */ ([]);
  #isDrawing = false;
  #isFilling = false;
  /** Counts openings: what was read for an earlier one is dropped. */
  #turn = 0;
  /** Where the list itself scrolled to last: a scrolling that leads elsewhere is the reader's. */
  #top = 0;
  #saying = /** @type {ReturnType<typeof setTimeout> | undefined} */ (undefined);
  #said = /** @type {Block | undefined} */ (undefined);
  #saidLength = 0;
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

  /** Show an agent at a sequence, which is marked, or at its tail.
   * @param {string} agent @param {number} head @param {number | null} at @param {boolean} [isMarked] */
  async open(agent, head, at, isMarked = true) {
    const turn = ++this.#turn;
    const after = at === null ? Math.max(0, head - PAGE) : Math.max(0, Math.min(at, head) - 1 - PAGE / 2);
    const page = await this.#reads.messages(agent, after, PAGE);
    if (turn !== this.#turn) return null;
    this.#agent = agent;
    this.head = page.head;
    this.#reset(page.items, after);
    this.sticks = at === null;
    if (at === null) this.#toEnd();
    else this.#show(at, isMarked);
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

  /** Show repeats and bookkeeping too, or hide them, and stay where the reader is. @param {boolean} all */
  async showAll(all) {
    const at = this.sticks ? null : this.#at;
    this.#showsAll = all;
    if (this.#agent) await this.open(this.#agent, this.head, at, false).catch(this.#hooks.onError);
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
    let block = this.#blocks.at(-1);
    for (const message of messages) {
      if (this.#isHidden(message, this.#blocks)) {
        block?.pass(message);
      } else if (block?.takes(message)) {
        block.add(message);
      } else {
        block?.draw();
        if (isNew && this.sticks) this.#say(block);
        const made = new Block(message, this.#agent, this.#reads);
        made.follow(block);
        this.#blocks.push(made);
        this.#list.append(made.element);
        block = made;
      }
      this.#last = message.sequence;
    }
    block?.draw();
    if (isNew && this.sticks) this.#sayLater();
  }

  /** @param {Message[]} messages */
  #prepend(messages) {
    const joined = this.#blocks[0];
    const rest = [...messages];
    for (let last = rest.at(-1); last && joined; last = rest.at(-1)) {
      if (this.#isHidden(last, [])) joined.passBefore(last);
      else if (joined.takesBefore(last)) joined.addBefore(last);
      else break;
      rest.pop();
    }
    joined?.draw();
    const made = /** @type {Block[]} */ ([]);
    for (const message of rest) {
      const last = made.at(-1);
      if (this.#isHidden(message, made)) {
        last?.pass(message);
      } else if (last?.takes(message)) {
        last.add(message);
      } else {
        made.push(new Block(message, this.#agent, this.#reads));
        made.at(-1)?.follow(last);
      }
    }
    for (const block of made) block.draw();
    if (joined?.only && this.#isHidden(joined.only, made)) this.#hideFirst(made[made.length - 1]);
    this.#blocks[0]?.follow(made.at(-1));
    this.#blocks.unshift(...made);
    this.#list.prepend(...made.map((block) => block.element));
    this.#first = messages[0].sequence;
  }

  /** Take the first block away, which says again what one says that has come before it. @param {Block} before */
  #hideFirst(before) {
    const hidden = this.#blocks.shift();
    hidden?.element.remove();
    before.cover(hidden?.last ?? before.last);
  }

  /** Whether a message is not shown behind these blocks. @param {Message} message @param {Block[]} blocks */
  #isHidden(message, blocks) {
    if (this.#showsAll) return false;
    return isHidden(message) || (message.type === "response" && isKnown(message, ...answerOf(blocks)));
  }

  /** Read more where the reader comes near an edge of what is there. */
  async #fill() {
    if (this.#isFilling) return;
    this.#isFilling = true;
    const turn = this.#turn;
    try {
      while (turn === this.#turn && (await this.#readNear(turn)));
    } catch (error) {
      this.#hooks.onError(/** @type {Error} */ (error));
    } finally {
      this.#isFilling = false;
    }
    if (turn !== this.#turn) this.#fill();
  }

  /** Read one page if one is wanted; return whether it was. @param {number} turn */
  async #readNear(turn) {
    const isLaterWanted = this.#end < this.head && this.#below < NEAR && !this.#pending.length;
    if (!isLaterWanted && (this.#first <= 1 || this.#log.scrollTop > NEAR)) return false;
    const after = isLaterWanted ? this.#last : Math.max(0, this.#first - 1 - PAGE);
    const limit = isLaterWanted ? PAGE : this.#first - 1 - after;
    const { items, head } = await this.#reads.messages(this.#agent, after, limit);
    if (turn !== this.#turn || items.length === 0) return false;
    this.head = Math.max(this.head, head);
    if (isLaterWanted) {
      if (items[0].sequence === this.#last + 1) this.#append(items, false);
    } else if (items[items.length - 1].sequence + 1 === this.#first) {
      this.#keepingPlace(() => this.#prepend(items));
    }
    this.#trim();
    this.sticks ||= this.#isAtEnd;
    if (this.sticks) this.#toEnd();
    this.#tellEnds();
    return true;
  }

  /** Drop blocks that are far from what is seen. */
  #trim() {
    const far = 2 * NEAR;
    this.#keepingPlace(() => {
      const { top, bottom } = this.#log.getBoundingClientRect();
      // Counted before any is removed: what is below moves up by it, and would seem to be far, too.
      const near = this.#blocks.findIndex(({ element }) => element.getBoundingClientRect().bottom >= top - far);
      const dropped = this.#blocks.splice(0, Math.max(0, Math.min(near, this.#blocks.length - BLOCKS)));
      for (const { element } of dropped) element.remove();
      if (dropped.length > 0) {
        this.#first = this.#blocks[0].first;
        this.#blocks[0].follow(undefined);
      }
      if (this.sticks) return;
      const last = () => this.#blocks[this.#blocks.length - 1];
      while (this.#blocks.length > BLOCKS && last().element.getBoundingClientRect().top > bottom + far) {
        this.#blocks.pop()?.element.remove();
        this.#last = last().last;
        this.#pending = [];
      }
    });
  }

  /** Do something to the list, and leave what is seen where it is. @param {() => void} change */
  #keepingPlace(change) {
    const seen = this.#seen;
    const before = seen?.element.getBoundingClientRect().bottom;
    change();
    if (seen?.element.isConnected && before !== undefined) {
      const moved = seen.element.getBoundingClientRect().bottom - before;
      if (Math.abs(moved) >= 1) this.#log.scrollTop += moved;
    }
    this.#top = this.#log.scrollTop;
  }

  /** The first block that is seen. */
  get #seen() {
    const { top } = this.#log.getBoundingClientRect();
    return this.#blocks.find((block) => block.element.getBoundingClientRect().bottom > top);
  }

  /** Pixels below what is seen. */
  get #below() {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight;
  }

  get #isAtEnd() {
    return this.#below < AT_END && this.#end >= this.head;
  }

  #toEnd() {
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#top = this.#log.scrollTop;
  }

  /** @param {number} at @param {boolean} isMarked */
  #show(at, isMarked) {
    const block = this.#blocks.find(({ last }) => last >= at);
    const shown = isMarked ? block?.mark(at) : block?.element;
    if (shown) this.#log.scrollTop += shown.getBoundingClientRect().top - this.#log.getBoundingClientRect().top - 96;
    this.#top = this.#log.scrollTop;
  }

  #onScroll() {
    if (Math.abs(this.#log.scrollTop - this.#top) < 1) return;
    this.#top = this.#log.scrollTop;
    this.sticks = this.#isAtEnd;
    this.#hooks.onMove(this.sticks ? null : this.#at);
    this.#tellEnds();
    this.#fill();
  }

  /** The sequence that is at the top of what is seen, nearly. */
  get #at() {
    const seen = this.#seen;
    if (!seen) return null;
    const { top, height } = seen.element.getBoundingClientRect();
    const above = Math.max(0, this.#log.getBoundingClientRect().top - top) / Math.max(1, height);
    return seen.first + Math.floor(above * (seen.last - seen.first + 1));
  }

  #tellEnds() {
    const unseen = this.head - this.#end;
    const isAtEnd = unseen <= 0;
    byId("earlier").textContent = this.#first > 1 ? `${many(this.#first - 1, "earlier message")}` : "";
    byId("ending").classList.toggle("later", !isAtEnd);
    const at = this.sticks ? this.head : this.#at;
    byId("place").textContent = at ? `#${number(at)} of ${number(this.head)}` : "";
    this.#latest.hidden = this.sticks;
    this.#latest.textContent = isAtEnd ? "Jump to latest" : `Jump to latest (${number(this.head)})`;
  }

  /** Have what a block says read out, as far as that has not been done. @param {Block | undefined} block */
  #say(block) {
    clearTimeout(this.#saying);
    const text = block?.text ?? "";
    const done = block === this.#said ? this.#saidLength : 0;
    if (text.length > done) this.#hooks.onSaid(text.slice(done));
    this.#said = block;
    this.#saidLength = text.length;
  }

  #sayLater() {
    clearTimeout(this.#saying);
    this.#saying = setTimeout(() => this.sticks && this.#say(this.#blocks.at(-1)), SILENCE_MS);
  }
}

/**
 * What the agent said last in these blocks, and whether it may begin before them: a long text is parted.
 * @param {Block[]} blocks @returns {[said: string, isCut: boolean]}
 */
function answerOf(blocks) {
  const parts = /** @type {string[]} */ ([]);
  for (const block of [...blocks].reverse()) {
    block.draw();
    parts.unshift(block.answer);
    if (!block.isRestOfText) break;
  }
  return [parts.join(""), parts.length === blocks.length && blocks[0]?.mayBeginBefore === true];
}
