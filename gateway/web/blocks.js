/** One block of the list of messages: what an agent said in one go, its pieces joined, or a single other message. */

import { link, make, number, time } from "./elements.js";
import { between, ends, goesOn, isAnswer, isDelta, kindOf, tells } from "./texts.js";

/** @typedef {import("./client.js").Message} Message */

/** A block is parted at the end of a line from here on, and anywhere at the most. */
const MESSAGES = 128;
const MOST_MESSAGES = 2_048;
const MOST_CHARACTERS = 32_768;
/** Raw lines fetched at once. */
const RAW_LINES = 25;

export class Block {
  element;
  /** The messages that it covers: those that it shows, and hidden ones among and around them. */
  first;
  last;
  /** Whether the text that it shows begins in the block before it. */
  isRestOfText = false;
  #kind;
  /** Of the messages that it shows: the first and the last, and how many there are. */
  #top;
  #end;
  #count = 1;
  /** Of each message's text, with what parts it from its neighbour; 0 for a hidden one. */
  #lengths;
  #length;
  /** Whether a piece of the same text may come next, or stand before it. */
  #goesOn;
  #mayGoOnWhatIsBefore = true;
  /** What is to be drawn before and after what is there. */
  #before = "";
  #after = "";
  #range;
  #body;
  #agent;
  #reads;

  /** @param {Message} message @param {string} agent @param {import("./reads.js").Reads} reads */
  constructor(message, agent, reads) {
    const text = textOf(message);
    this.first = this.last = message.sequence;
    this.#top = this.#end = message;
    this.#kind = kindOf(message);
    this.#lengths = [text.length];
    this.#length = text.length;
    this.#goesOn = goesOn(message);
    this.#agent = agent;
    this.#reads = reads;
    this.#range = make("a", { class: "number", href: link(agent, this.first) }, number(this.first));
    this.#body = make("div", { class: "body" }, document.createTextNode(text));
    const raw = make("details", { class: "raw" }, make("summary", {}, "raw"));
    raw.addEventListener("toggle", () => this.#showRaw(raw), { once: true });
    const at = make("time", { datetime: message.created_at, title: message.created_at }, time(message.created_at));
    this.element = make("article", { class: "block", "data-type": message.type });
    this.element.append(make("header", {}, make("b", {}, labelOf(message)), this.#range, at), raw, this.#body);
  }

  get text() {
    return this.#body.textContent ?? "";
  }

  /** What it says last, if the agent itself says it: all of a text in pieces, else the last message. */
  get answer() {
    if (!isAnswer(this.#end)) return "";
    return isDelta(this.#end) ? this.text : textOf(this.#end);
  }

  /** Whether the text that it shows may begin in messages before it. */
  get mayBeginBefore() {
    return this.first > 1 && isDelta(this.#top) && this.#mayGoOnWhatIsBefore;
  }

  /** The only message that it shows, if there is but one. */
  get only() {
    return this.#count === 1 ? this.#top : null;
  }

  /** Show whether it goes on with what the block before it says. @param {Block | undefined} before */
  follow(before) {
    const isNext = before !== undefined && before.last + 1 === this.first;
    const isSame = isNext && this.#kind !== null && before.#kind === this.#kind;
    this.isRestOfText = isSame && isDelta(this.#top) && before.#goesOn && this.#mayGoOnWhatIsBefore;
    this.element.classList.toggle("continued", this.isRestOfText || (isSame && !isDelta(this.#top)));
  }

  /** Whether the message after it belongs into it. @param {Message} message */
  takes(message) {
    if (this.#isParted(this.#end, message) || message.sequence !== this.last + 1) return false;
    return this.#isAlike(message) && (this.#goesOn || !isDelta(message));
  }

  /** Whether the message before it belongs into it. @param {Message} message */
  takesBefore(message) {
    if (this.#isParted(message, this.#top) || message.sequence !== this.first - 1) return false;
    return this.#isAlike(message) && (this.#mayGoOnWhatIsBefore || !isDelta(message));
  }

  /** @param {Message} message */
  #isAlike(message) {
    return this.#kind !== null && kindOf(message) === this.#kind;
  }

  /** Whether it is so long that it is parted here. @param {Message} before @param {Message} after */
  #isParted(before, after) {
    if (this.#count >= MOST_MESSAGES || this.#length >= MOST_CHARACTERS) return true;
    return this.#count >= MESSAGES && (before.content.endsWith("\n") || between(before, after) !== "");
  }

  /** Add a message that it takes, to be drawn. @param {Message} message */
  add(message) {
    const text = between(this.#end, message) + textOf(message);
    this.last++;
    this.#count++;
    this.#lengths.push(text.length);
    this.#length += text.length;
    this.#after += text;
    this.#end = message;
    this.#goesOn = goesOn(message);
  }

  /** Add a message that it takes before, to be drawn. @param {Message} message */
  addBefore(message) {
    const text = textOf(message) + between(message, this.#top);
    this.first--;
    this.#count++;
    this.#lengths.unshift(text.length);
    this.#length += text.length;
    this.#before = text + this.#before;
    this.#top = message;
    this.#mayGoOnWhatIsBefore = true;
  }

  /** Cover the message after it, which is hidden. @param {Message} message */
  pass(message) {
    this.last++;
    this.#lengths.push(0);
    if (ends(message, this.#end)) this.#goesOn = false;
  }

  /** Cover what is after it and is not shown. @param {number} last */
  cover(last) {
    while (this.last < last) {
      this.last++;
      this.#lengths.push(0);
    }
    this.#goesOn = false;
  }

  /** Cover the message before it, which is hidden. @param {Message} message */
  passBefore(message) {
    this.first--;
    this.#lengths.unshift(0);
    if (ends(message, this.#top)) this.#mayGoOnWhatIsBefore = false;
  }

  draw() {
    const [start, end] = [this.#body.firstChild, this.#body.lastChild];
    if (this.#before && start instanceof Text) start.insertData(0, this.#before);
    else if (this.#before) this.#body.prepend(this.#before);
    if (this.#after && end instanceof Text) end.appendData(this.#after);
    else if (this.#after) this.#body.append(this.#after);
    this.#before = this.#after = "";
    if (this.#count === 1) return;
    this.#range.textContent = `${number(this.#top.sequence)}–${number(this.#end.sequence)}`;
    this.#range.setAttribute("href", link(this.#agent, this.#top.sequence));
  }

  /** Mark one message, or none. @param {number | null} sequence @returns {HTMLElement} what to look at */
  mark(sequence) {
    const text = this.text;
    const place = sequence === null ? -1 : sequence - this.first;
    const isAlone = this.#count === 1;
    this.element.classList.toggle("marked", sequence === this.#top.sequence && isAlone);
    if (place < 0 || isAlone) {
      this.#body.replaceChildren(text);
      return this.element;
    }
    let from = this.#lengths.slice(0, place).reduce((sum, length) => sum + length, 0);
    let to = from + this.#lengths[place];
    while (from < to && text[from] === "\n") from++;
    while (from < to && text[to - 1] === "\n") to--;
    const mark = make("mark", {}, text.slice(from, to));
    this.#body.replaceChildren(text.slice(0, from), mark, text.slice(to));
    return mark;
  }

  /** Fetch the lines as their producer wrote them. @param {HTMLElement} into */
  async #showRaw(into) {
    const list = make("ol", {});
    const more = make("button", { type: "button" }, "more");
    const next = async () => {
      const [first, last] = [this.#top.sequence, this.#end.sequence];
      const after = first - 1 + list.childElementCount;
      const { items } = await this.#reads.messages(this.#agent, after, Math.min(RAW_LINES, last - after), true);
      for (const item of items) {
        list.append(make("li", { value: String(item.sequence) }, make("code", {}, rawOf(item))));
      }
      more.hidden = items.length === 0 || first - 1 + list.childElementCount >= last;
    };
    more.addEventListener("click", () => next());
    into.append(list, more);
    await next().catch((error) => list.append(make("li", {}, String(error.message))));
  }
}

/** @param {Message} message */
function labelOf({ type, role, metadata }) {
  const names = [metadata?.tool, metadata?.tool_name, metadata?.name, metadata?.event];
  const name = names.find((at) => typeof at === "string");
  const what = metadata?.thinking ? "thinking" : type === "assistant" ? undefined : name;
  return [type, role && role !== type ? role : undefined, what].filter(Boolean).join(" · ");
}

/** @param {Message} message */
function textOf({ content, content_type, metadata }) {
  if (content === "" && tells(metadata)) return JSON.stringify(metadata);
  if (content_type !== "json") return content;
  try {
    return JSON.stringify(JSON.parse(content), null, 2);
  } catch {
    return content;
  }
}

/** @param {Message} message */
function rawOf({ raw, content, metadata }) {
  if (typeof raw === "string") return raw;
  if (raw) return `base64: ${raw.base64}`;
  return `no raw line; stored as ${JSON.stringify({ content, metadata })}`;
}
