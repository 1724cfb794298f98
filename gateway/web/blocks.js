/** One block of the list of messages: what an agent said in one go, its tokens joined, or a single other message. */

import { link, make, number, time } from "./elements.js";

/** @typedef {import("./client.js").Message} Message */

/** A block is parted at the end of a line from here on, and anywhere at the most. */
const MESSAGES = 128;
const MOST_MESSAGES = 512;
const MOST_CHARACTERS = 16_384;
/** Raw lines fetched at once. */
const RAW_LINES = 25;

/** @param {Message} message */
const kindOf = ({ type, role, metadata }) => `${type} ${role ?? ""} ${metadata?.thinking ? "thinking" : ""}`;
const SAID = new Set(["assistant", "response"]);

export class Block {
  element;
  first;
  last;
  #offsets = [0];
  #length = 0;
  #kind;
  #isText;
  #endsLine = false;
  #range;
  #body;
  #agent;
  #reads;

  /**
   * @param {Message} message
   * @param {Block | undefined} before
   * @param {string} agent
   * @param {import("./reads.js").Reads} reads
   */
  constructor(message, before, agent, reads) {
    this.first = this.last = message.sequence;
    this.#agent = agent;
    this.#reads = reads;
    this.#kind = kindOf(message);
    this.#isText = message.content_type === "text";
    const text = textOf(message);
    this.#length = text.length;
    this.#endsLine = text.endsWith("\n");
    this.#range = make("a", { class: "number", href: link(agent, this.first) }, number(this.first));
    this.#body = make("div", { class: "body" }, document.createTextNode(text));
    const raw = make("details", { class: "raw" }, make("summary", {}, "raw"));
    raw.addEventListener("toggle", () => this.#showRaw(raw), { once: true });
    const at = make("time", { datetime: message.created_at, title: message.created_at }, time(message.created_at));
    const label = make("b", {}, labelOf(message));
    this.element = make("article", { class: "block", "data-type": message.type });
    this.element.append(make("header", {}, label, this.#range, at), raw, this.#body);
    this.element.classList.toggle("continued", before?.continues(message) ?? false);
  }

  /** Whether a message goes on where this ends. @param {Message} message */
  continues(message) {
    return (
      this.#isText && message.content_type === "text" && SAID.has(message.type) &&
      kindOf(message) === this.#kind && message.sequence === this.last + 1
    );
  }

  /** Whether a message belongs into this block. @param {Message} message */
  takes(message) {
    const count = this.last - this.first + 1;
    const isFull = (count >= MESSAGES && this.#endsLine) || count >= MOST_MESSAGES || this.#length >= MOST_CHARACTERS;
    return !isFull && this.continues(message);
  }

  /** Add messages that it takes. @param {Message[]} messages */
  add(messages) {
    let text = "";
    for (const { content } of messages) {
      this.#offsets.push(this.#length + text.length);
      text += content;
    }
    this.#length += text.length;
    this.last += messages.length;
    this.#endsLine = text.endsWith("\n");
    const end = this.#body.lastChild;
    if (end instanceof Text) end.appendData(text);
    else this.#body.append(text);
    this.#range.textContent = `${number(this.first)}–${number(this.last)}`;
  }

  get text() {
    return this.#body.textContent ?? "";
  }

  /** Mark one message, or none. @param {number | null} sequence @returns {HTMLElement} what to look at */
  mark(sequence) {
    const text = this.text;
    this.#body.replaceChildren(text);
    const place = sequence === null ? -1 : sequence - this.first;
    this.element.classList.toggle("marked", place >= 0 && this.first === this.last);
    if (place < 0 || this.first === this.last) return this.element;
    const from = this.#offsets[place];
    const mark = make("mark", {}, text.slice(from, this.#offsets[place + 1] ?? text.length));
    this.#body.replaceChildren(text.slice(0, from), mark, text.slice(this.#offsets[place + 1] ?? text.length));
    return mark;
  }

  /** Fetch the lines as their producer wrote them. @param {HTMLElement} into */
  async #showRaw(into) {
    const list = make("ol", {});
    const more = make("button", { type: "button" }, "more");
    const next = async () => {
      const after = this.first - 1 + list.childElementCount;
      const { items } = await this.#reads.messages(this.#agent, after, Math.min(RAW_LINES, this.last - after), true);
      for (const item of items) list.append(make("li", { value: String(item.sequence) }, make("code", {}, rawOf(item))));
      more.hidden = items.length === 0 || this.first - 1 + list.childElementCount >= this.last;
    };
    more.addEventListener("click", () => next());
    into.append(list, more);
    await next().catch((error) => list.append(make("li", {}, String(error.message))));
  }
}

/** @param {Message} message */
function labelOf({ type, role, metadata }) {
  const name = [metadata?.tool, metadata?.tool_name, metadata?.name, metadata?.event].find((at) => typeof at === "string");
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
