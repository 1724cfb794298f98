/** One block of the list of messages: what an agent said in one go, its tokens joined, or a single other message. */

import { link, make, number, time } from "./elements.js";

/** @typedef {import("./client.js").Message} Message */

/** A block is parted at the end of a line from here on, and anywhere at the most. */
const MESSAGES = 128;
const MOST_MESSAGES = 2_048;
const MOST_CHARACTERS = 32_768;
/** Raw lines fetched at once. */
const RAW_LINES = 25;

const SAID = new Set(["assistant", "response"]);

/** What messages have in common that are one text; null of one that stands by itself. @param {Message} message */
function kindOf({ type, role, content_type, metadata }) {
  if (!SAID.has(type) || content_type !== "text") return null;
  return `${type} ${role ?? ""} ${metadata?.thinking ? "thinking" : ""}`;
}

export class Block {
  element;
  first;
  last;
  #kind;
  /** Of each message's text. */
  #lengths;
  #length;
  #endsLine;
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
    this.#kind = kindOf(message);
    this.#lengths = [text.length];
    this.#length = text.length;
    this.#endsLine = text.endsWith("\n");
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

  get #isFull() {
    return this.#lengths.length >= MOST_MESSAGES || this.#length >= MOST_CHARACTERS;
  }

  /** Show whether it goes on with what the block before it says. @param {Block | undefined} before */
  follow(before) {
    const isNext = before !== undefined && before.last + 1 === this.first;
    const goesOn = isNext && this.#kind !== null && before.#kind === this.#kind;
    this.element.classList.toggle("continued", goesOn);
  }

  /** Whether the message after it belongs into it. @param {Message} message */
  takes(message) {
    const isParted = this.#isFull || (this.#lengths.length >= MESSAGES && this.#endsLine);
    return !isParted && this.#kind !== null && kindOf(message) === this.#kind && message.sequence === this.last + 1;
  }

  /** Whether the message before it belongs into it. @param {Message} message */
  takesBefore(message) {
    const isParted = this.#isFull || (this.#lengths.length >= MESSAGES && message.content.endsWith("\n"));
    return !isParted && this.#kind !== null && kindOf(message) === this.#kind && message.sequence === this.first - 1;
  }

  /** Add a message that it takes, to be drawn. @param {Message} message */
  add({ content }) {
    this.last++;
    this.#lengths.push(content.length);
    this.#length += content.length;
    this.#after += content;
    this.#endsLine = content.endsWith("\n");
  }

  /** Add a message that it takes before, to be drawn. @param {Message} message */
  addBefore({ content }) {
    this.first--;
    this.#lengths.unshift(content.length);
    this.#length += content.length;
    this.#before = content + this.#before;
  }

  draw() {
    const [start, end] = [this.#body.firstChild, this.#body.lastChild];
    if (this.#before && start instanceof Text) start.insertData(0, this.#before);
    else if (this.#before) this.#body.prepend(this.#before);
    if (this.#after && end instanceof Text) end.appendData(this.#after);
    else if (this.#after) this.#body.append(this.#after);
    this.#before = this.#after = "";
    if (this.first === this.last) return;
    this.#range.textContent = `${number(this.first)}–${number(this.last)}`;
    this.#range.setAttribute("href", link(this.#agent, this.first));
  }

  /** Mark one message, or none. @param {number | null} sequence @returns {HTMLElement} what to look at */
  mark(sequence) {
    const text = this.text;
    const place = sequence === null ? -1 : sequence - this.first;
    const isAlone = this.first === this.last;
    this.element.classList.toggle("marked", place >= 0 && isAlone);
    if (place < 0 || isAlone) {
      this.#body.replaceChildren(text);
      return this.element;
    }
    const from = this.#lengths.slice(0, place).reduce((sum, length) => sum + length, 0);
    const to = from + this.#lengths[place];
    const mark = make("mark", {}, text.slice(from, to));
    this.#body.replaceChildren(text.slice(0, from), mark, text.slice(to));
    return mark;
  }

  /** Fetch the lines as their producer wrote them. @param {HTMLElement} into */
  async #showRaw(into) {
    const list = make("ol", {});
    const more = make("button", { type: "button" }, "more");
    const next = async () => {
      const after = this.first - 1 + list.childElementCount;
      const { items } = await this.#reads.messages(this.#agent, after, Math.min(RAW_LINES, this.last - after), true);
      for (const item of items) {
        list.append(make("li", { value: String(item.sequence) }, make("code", {}, rawOf(item))));
      }
      more.hidden = items.length === 0 || this.first - 1 + list.childElementCount >= this.last;
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
  if (content === "" && metadata) return JSON.stringify(metadata);
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
