/**
 * Which messages make one text, which say again what was said, and which are only the bookkeeping of a stream. Pure.
 *
 * The marks are described in docs/protocol.md; gateway/protocol/texts.py is the same rule for the terminal.
 */

/** @typedef {import("./client.js").Message} Message */

/** Events that say nothing to a person, though a message shows their line. */
const BOOKKEEPING = ["keep_alive", "ping", "rate_limit_event", "stream_event", "tool_progress"];
/** Events without content that a person wants to know of all the same. */
const NOTICES = ["api_retry", "compact_boundary", "error"];
/** Events between two texts of one stream; all other bookkeeping may come in the middle of a text. */
const BOUNDARIES = ["content_block_start", "content_block_stop", "message_start", "message_stop"];
/** Names in metadata that tell how to read a message, and nothing that it says. */
const MARKS = [
  ...["delta", "repeats_deltas", "partial", "continues", "overwrites", "truncated"],
  ...["thinking", "parent_tool_use_id"],
];
/** Characters of the end of a text by which it is known again when its beginning is not there. */
const ENOUGH = 64;
const SAID = ["assistant", "response"];

/** Whether its producer calls it one of these. @param {Message} message @param {string[]} names */
const isCalled = ({ metadata }, names) => names.includes(metadata?.event) || names.includes(metadata?.subtype);

/** Who speaks: a sub-agent, or the agent itself. @param {Message} message */
const streamOf = ({ metadata }) => metadata?.parent_tool_use_id ?? "";

/** Whether it has nothing to read, or nothing new. @param {Message} message */
export function isHidden(message) {
  const { type, content, metadata } = message;
  if (metadata?.repeats_deltas === true) return true;
  if (type !== "system") return content === "" && (metadata?.delta === true || metadata?.thinking === true);
  if (content === "") return !isCalled(message, NOTICES);
  return content.startsWith("{") && isCalled(message, BOOKKEEPING);
}

/** Whether a hidden message ends the text that another is a piece of. @param {Message} hidden @param {Message} piece */
export function ends(hidden, piece) {
  const isEnd = hidden.metadata?.repeats_deltas === true || isCalled(hidden, BOUNDARIES);
  return isEnd && streamOf(hidden) === streamOf(piece);
}

/** @param {Message} message */
export const isDelta = ({ metadata }) => metadata?.delta === true;

/** @param {Message} message */
const isPieceOfLine = ({ metadata }) => metadata?.partial === true || metadata?.continues === true;

/** Whether it goes on where the piece before it ends; not at the line's start, as on a terminal. @param {Message} message */
const joinsLine = (message) => isPieceOfLine(message) && message.metadata?.overwrites !== true;

/** Whether the next message may be a piece of the same text, or line. @param {Message} message */
export const goesOn = (message) => isDelta(message) || message.metadata?.continues === true;

/** What messages have in common that may stand together; null of one that stands by itself. @param {Message} message */
export function kindOf(message) {
  const { type, role, content_type, content, metadata } = message;
  const isPiece = isDelta(message) || isPieceOfLine(message);
  if (content_type !== "text" || !(isPiece || SAID.includes(type))) return null;
  if (content === "" && tells(metadata)) return null;
  return JSON.stringify([type, role, streamOf(message), metadata?.thinking === true, isDelta(message)]);
}

/** What stands between two messages that stand together. @param {Message} before @param {Message} after */
export function between(before, after) {
  if (isDelta(after) || (before.metadata?.continues === true && joinsLine(after))) return "";
  const isLong = [before, after].some(({ content }) => content.trimEnd().includes("\n"));
  return "\n".repeat((isLong ? 2 : 1) - (before.content.endsWith("\n") ? 1 : 0));
}

/** Whether it is what the agent says itself, aloud. @param {Message} message */
export const isAnswer = (message) =>
  message.type === "assistant" && message.metadata?.thinking !== true && streamOf(message) === "";

/**
 * Whether it is a response that says again what was said last.
 * @param {Message} message @param {string} said @param {boolean} isCut whether only the end of what was said is there
 */
export function isKnown({ type, content }, said, isCut) {
  if (type !== "response" || said.trim() === "") return false;
  if (content.trim() === said.trim()) return true;
  return isCut && said.length >= ENOUGH && content.trimEnd().endsWith(said.trimEnd());
}

/** Whether metadata says something, beyond how to read the message. @param {any} metadata */
export const tells = (metadata) => Object.keys(metadata ?? {}).some((name) => !MARKS.includes(name));
